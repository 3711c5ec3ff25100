"""Sizes: as people write them, as files declare them, as loading makes them."""

from __future__ import annotations

import json
import shutil

import pytest

from parquetry.schemas.errors import InvalidValueError, UnusableModelError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.tensor_headers import TensorHeader, read_headers
from parquetry.workers.loading.devices.byte_size import format_bytes, parse_bytes
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.quantization.footprint import expanded_bytes, loaded_bytes
from parquetry.workers.loading.quantization.stored_quantization import is_expanded
from tests.unit.workers.loading.spec_cases import A100, CPU, H100, engine_spec, write_headers

MATRIX = {"model.layers.0.mlp.up_proj.weight": TensorHeader("BF16", (1024, 512))}
TABLE = {"model.embed_tokens.weight": TensorHeader("BF16", (1000, 512))}


@pytest.mark.parametrize(
    ("text", "count"),
    [("40GiB", 40 << 30), ("1.5 GB", 1_500_000_000), ("512MB", 512_000_000), ("7", 7), ("2tib", 2 << 40), ("3K", 3000)],
)
def test_amounts_are_read(text: str, count: int) -> None:
    assert parse_bytes(text, key="model.max_memory.0") == count


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "40 apples", "1e9"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"model\.max_memory\.0"):
        parse_bytes(text, key="model.max_memory.0")


def test_amounts_are_written_in_the_unit_that_suits() -> None:
    assert [format_bytes(n) for n in (7, 2048, 3 << 20, 16_100_000_000)] == [
        "7 bytes",
        "2.0 KiB",
        "3.0 MiB",
        "15.0 GiB",
    ]


@pytest.mark.parametrize(
    ("quantization", "each"), [("none", 2.0), ("int8", 1.0), ("fp8", 1.0), ("int8-weight-only", 1.0), ("nf4", 0.516)]
)
def test_a_matrix_shrinks_with_its_quantization(quantization: str, each: float) -> None:
    found = loaded_bytes(MATRIX, dtype="bfloat16", quantization=quantization)
    assert found == pytest.approx(1024 * 512 * each, rel=0.02)


def test_tables_stay_in_their_dtype() -> None:
    assert loaded_bytes(TABLE, dtype="bfloat16", quantization="nf4") == 1000 * 512 * 2
    assert loaded_bytes(TABLE, dtype="float32") == 1000 * 512 * 4


def test_weights_expand_where_their_kernels_do_not_run() -> None:
    fp8 = {
        "model.layers.0.mlp.up_proj.weight": TensorHeader("F8_E4M3", (256, 128)),
        "model.layers.0.mlp.up_proj.weight_scale_inv": TensorHeader("F32", (2, 1)),
        **TABLE,
    }
    assert expanded_bytes(fp8, dtype="bfloat16") == 2 * (256 * 128 + 1000 * 512)
    # 32 weights in 16 bytes
    experts = {
        "model.layers.0.mlp.experts.down_proj_blocks": TensorHeader("U8", (4, 64, 2, 16)),
        "model.layers.0.mlp.experts.down_proj_scales": TensorHeader("U8", (4, 64, 2)),
    }
    assert expanded_bytes(experts, dtype="bfloat16") == 2 * 4 * 64 * 64
    config = {"quantization_config": {"quant_method": "fp8"}}
    assert [is_expanded(config, card) for card in (CPU, A100, H100)] == [True, True, False]
    assert not is_expanded({"quantization_config": {"quant_method": "gptq"}}, CPU) and not is_expanded({}, CPU)


def test_weights_quantized_ahead_are_loaded_as_they_lie() -> None:
    packed = {"model.layers.0.mlp.up_proj.qweight": TensorHeader("I32", (64, 512))}
    assert loaded_bytes(packed, dtype="bfloat16") == 64 * 512 * 4


def test_headers_are_read_without_weights(tmp_path) -> None:
    file = write_headers(tmp_path / "a.safetensors", {"x": ("F32", (3, 4)), "y": ("U8", (5,))})
    headers = read_headers([file])
    assert headers == {"x": TensorHeader("F32", (3, 4)), "y": TensorHeader("U8", (5,))}
    assert headers["x"].num_bytes == 48


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0{]"])
def test_other_files_are_refused(tmp_path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UnusableModelError, match=r"a\.safetensors"):
        read_headers([tmp_path / "a.safetensors"])


@pytest.mark.parametrize("name", ["../other/model.safetensors", "{elsewhere}/model.safetensors"])
def test_an_index_must_stay_in_its_folder(causal_lm, tmp_path, name: str) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "other"
    for target in (folder, elsewhere):
        shutil.copytree(causal_lm, target)
    index = {"weight_map": {"lm_head.weight": name.format(elsewhere=elsewhere)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    options = engine_spec(folder).model
    with pytest.raises(UnusableModelError, match="outside of the folder"):
        LoadingNeeds(options, Checkpoint.resolve(options)).check()
