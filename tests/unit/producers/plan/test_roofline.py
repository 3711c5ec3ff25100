"""Named cards, sizes of models by hand, memory, and rooflines beside times that were measured on one H100."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from benchmarks.workloads import WORKLOADS
from parquetry.producers.plan.card_sheets import CARD_SHEETS, UnknownCardError, find_sheet, sheet_of
from parquetry.producers.plan.device_memory import DeviceMemory
from parquetry.producers.plan.model_shape import ModelShape, Weights
from parquetry.producers.plan.roofline import LEAST_SHARE, LIKELY_SHARE, Roofline, Rows
from parquetry.producers.plan.target import Target
from parquetry.schemas.progress.status import DeviceUse, WorkerStatus
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.loading.needs import LoadingNeeds
from tests.unit.workers.loading.spec_cases import write_headers

H100 = CARD_SHEETS["h100"]


def test_a_card_is_named_as_people_and_drivers_do():
    assert find_sheet("H100") == find_sheet("NVIDIA H100 80GB HBM3") == H100
    assert find_sheet("rtx 4090").name == "NVIDIA GeForce RTX 4090"
    assert sheet_of("NVIDIA A100-SXM4-40GB") == CARD_SHEETS["a100-40"]
    assert sheet_of("NVIDIA A100-SXM4-80GB") == CARD_SHEETS["a100"]
    assert sheet_of("NVIDIA H100 PCIe") == CARD_SHEETS["h100-pcie"]
    assert sheet_of("NVIDIA H100 MIG 3g.40gb") is None and sheet_of("the CPU of h") is None
    with pytest.raises(UnknownCardError, match="did you mean 'h100'"):
        find_sheet("h10")


@pytest.mark.parametrize("name", CARD_SHEETS)
def test_every_sheet_is_found_by_what_it_calls_itself(name):
    sheet = CARD_SHEETS[name]
    assert sheet_of(sheet.name) == find_sheet(name) == sheet
    assert sheet.source and 1e9 < sheet.memory_bytes < 1e12
    assert sheet.fp8_rate is None or sheet.fp8_rate > 1.9 * sheet.half_rate


def test_a_plan_is_for_the_workers_that_live_unless_a_card_is_named():
    use = DeviceUse(name="NVIDIA H200", memory_total_bytes=143_771 << 20)
    worker = WorkerStatus(
        worker="w", host="h", device="cuda:0", queue="default", shards_in_flight=2, seen=0.0, device_use=use
    )
    found = Target.of(workers=[worker])
    assert (found.device, found.num_bytes, found.sheet) == ("NVIDIA H200", 143_771 << 20, CARD_SHEETS["h200"])
    assert found.is_device("NVIDIA H200") and not found.is_device("NVIDIA H100")
    named = Target.of("h100", [worker])
    assert named.is_device("NVIDIA H100 80GB HBM3") and not named.is_device("NVIDIA H200")


LLAMA = {
    "model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK = {
    **LLAMA, "model_type": "deepseek_v3", "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "n_routed_experts": 256, "num_experts_per_tok": 8,
}  # fmt: skip


def shape_of(folder, config, tensors, **model) -> ModelShape:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_headers(folder / "model.safetensors", tensors)
    checkpoint = Checkpoint(folder, str(folder))
    found = ModelShape.of(LoadingNeeds(ModelSpec(id=str(folder), **model), checkpoint))
    assert found is not None
    return found


TABLE = {"model.embed_tokens.weight": ("BF16", (1000, 64)), "model.layers.0.mlp.up_proj.weight": ("BF16", (100, 64))}


def test_a_token_takes_as_much_of_the_cache_as_is_published(tmp_path):
    # Llama 3 8B: 128 KiB; DeepSeek-V3: 70,272 bytes of latents
    assert shape_of(tmp_path / "a", LLAMA, TABLE).kv_bytes_per_token == 131_072
    assert shape_of(tmp_path / "a", LLAMA, TABLE, kv_dtype="fp8").kv_bytes_per_token == 65_536
    assert shape_of(tmp_path / "b", DEEPSEEK, TABLE).kv_bytes_per_token == 61 * 576 * 2
    hybrid = {
        **LLAMA,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 8,
    }
    assert shape_of(tmp_path / "c", hybrid, TABLE).kv_bytes_per_token == 131_072 // 4


def test_weights_are_told_apart_by_who_reads_them(tmp_path):
    experts = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": ("BF16", (10, 64)) for n in range(256)}
    found = shape_of(tmp_path / "a", DEEPSEEK, {**TABLE, **experts})
    assert (found.dense, found.experts) == (Weights(6400, 12_800), Weights(163_840, 327_680))
    # there is no other head, so the table of tokens makes the logits
    assert found.head == Weights(64_000, 128_000)
    assert found.active_numbers == 6400 + 163_840 * 8 / 256
    assert found.bytes_touched(1) == pytest.approx(12_800 + 128_000 + 327_680 / 32)
    assert found.bytes_touched(4000) == pytest.approx(12_800 + 128_000 + 327_680)
    quantized = shape_of(tmp_path / "a", LLAMA, TABLE, quantization="nf4")
    assert quantized.dense.bytes == int(0.516 * 6400)


def test_a_config_that_tells_no_layers_has_no_shape(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    write_headers(tmp_path / "m" / "model.safetensors", TABLE)
    assert ModelShape.of(LoadingNeeds(ModelSpec(id="m"), Checkpoint(tmp_path / "m", "m"))) is None


def made_shape(layers, heads, kv_heads, head_dim, hidden, inner, vocab, dense, head, experts=0, choice=(1, 1)):
    return ModelShape(
        num_layers=layers, attention_width=heads * head_dim, hidden_size=hidden, inner_size=inner, vocab_size=vocab,
        dtype_bytes=2, kv_bytes_per_token=4 * layers * kv_heads * head_dim, dense=Weights(dense, 2 * dense),
        head=Weights(head, 2 * head), experts=Weights(experts, 2 * experts), num_chosen=choice[0],
        num_experts=choice[1],
    )  # fmt: skip


LLAMA_8B = made_shape(32, 32, 8, 128, 4096, 14336, 128256, 6_979_321_856, 525_336_576)
QWEN_06B = made_shape(28, 16, 8, 128, 1024, 3072, 151936, 440_401_920, 155_582_464)
#: 24 layers of Qwen3-30B-A3B
QWEN_MOE = made_shape(24, 32, 4, 128, 2048, 6144, 151936, 459_276_288, 311_164_928, 14_495_514_624, choice=(8, 128))
#: seconds on one H100, docs/speed.md
MEASURED = (
    ("nano", QWEN_06B, 6.5),
    ("offline", LLAMA_8B, 24.0),
    ("prefix", LLAMA_8B, 12.3),
    ("long", LLAMA_8B, 30.1),
    ("moe", QWEN_MOE, 15.7),
)


@pytest.mark.parametrize(("name", "shape", "seconds"), MEASURED, ids=[name for name, *_ in MEASURED])
def test_the_roofline_is_near_what_was_measured(name, shape, seconds):
    workload = WORKLOADS[name]()
    lengths, output = [len(prompt) for prompt in workload.prompts], fmean(workload.output_lens)
    weights = shape.dense.bytes + shape.head.bytes + shape.experts.bytes
    memory = DeviceMemory.of(shape, weights, H100.memory_bytes, fmean(lengths) + output)
    rows = Rows(
        count=len(lengths), prompt_lengths=lengths, shared_prefix=workload.shared_prefix, output_tokens=output,
        max_output_tokens=workload.max_new_tokens, at_once=memory.rows_at_once,
    )  # fmt: skip
    least = Roofline(shape, H100).seconds(rows)
    assert least <= seconds <= least / LEAST_SHARE
    assert least / LIKELY_SHARE == pytest.approx(seconds, rel=0.2)


def test_memory_is_shared_out_as_the_engine_does():
    found = DeviceMemory.of(LLAMA_8B, 16_060_522_496, H100.memory_bytes, 600)
    assert found.weights + found.workspace + found.cache == pytest.approx(0.9 * H100.memory_bytes)
    # the engine of the benchmark had room for 470,000 tokens
    assert found.cache_tokens == pytest.approx(470_000, rel=0.15)
    assert found.rows_at_once == found.cache_tokens // 600
    assert DeviceMemory.of(LLAMA_8B, 16_060_522_496, 16 << 30, 600).rows_at_once == 0


def test_faster_cards_take_less_time():
    rows = Rows(
        count=1000, prompt_lengths=[400], shared_prefix=0, output_tokens=200, max_output_tokens=400, at_once=256
    )
    seconds = {name: Roofline(LLAMA_8B, sheet).seconds(rows) for name, sheet in CARD_SHEETS.items()}
    assert seconds["b200"] < seconds["h200"] < seconds["h100"] < seconds["a100"] < seconds["l4"]
    assert Roofline(LLAMA_8B, H100, is_fp8=True).seconds(rows) < seconds["h100"]
