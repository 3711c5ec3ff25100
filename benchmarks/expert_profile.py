"""One layer of experts alone: are our operators right, are they repeatable, and where does their time go.

    python benchmarks/expert_profile.py                                  # a CUDA device
    python benchmarks/expert_profile.py --model gpt-oss --tokens 64 256

Beside it stands what transformers does without us (`grouped_mm`), compiled by inductor and captured in a graph, as ours
is. Tokens choose their experts evenly; `skewed` ones crowd on the first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import Experts, make_config
from transformers import AutoModelForCausalLM

from parquetry.workers.fusing.expert_gates import OPEN
from parquetry.workers.fusing.experts import IMPLEMENTATION, expert_layers, use_expert_kernels

Batch = tuple[Tensor, Tensor, Tensor]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen3-moe", choices=["qwen3-moe", "gpt-oss", "deepseek", "tiny-moe"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 32, 64, 128, 256, 512, 1024, 8448])
    return parser.parse_args()


def one_layer(name: str, device: str) -> tuple[nn.Module, nn.Module]:
    """A model of the shape's last layer with random weights in bfloat16, ready for our operators; and its experts."""
    torch.manual_seed(0)
    config = make_config(name)
    config.num_hidden_layers = 1 + getattr(config, "first_k_dense_replace", 0)
    config.layer_types = None if getattr(config, "layer_types", None) is None else config.layer_types[:1]
    config.vocab_size = 64
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    (experts,) = expert_layers(model)
    for parameter in experts.parameters():
        # biases start as zeros, which would hide that they are added
        parameter.data.normal_(0.0, 0.02)
    use_expert_kernels(model)
    return model, experts


def make_batch(config: Any, num_tokens: int, device: str, *, is_skewed: bool = False) -> Batch:
    """Hidden states, the experts they are sent to, and their weights."""
    shape = Experts.of(config)
    x = torch.randn(num_tokens, config.hidden_size, device=device, dtype=torch.bfloat16)
    scores = torch.rand(num_tokens, shape.number, device=device)
    if is_skewed:
        scores += 2 * torch.linspace(1, 0, shape.number, device=device)
    values, ids = scores.topk(shape.top_k)
    return x, ids, values.softmax(-1).to(torch.bfloat16)


@torch.inference_mode()
def exact(experts: nn.Module, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """The same in float32, one expert at a time."""
    out = torch.zeros(x.shape, device=x.device)
    for expert in ids.unique().tolist():
        token, number = torch.where(ids == expert)
        up, down = experts.gate_up_proj[expert].float(), experts.down_proj[expert].float()
        up, down = (up, down) if experts.is_transposed else (up.T, down.T)
        rows = x[token].float() @ up + (experts.gate_up_proj_bias[expert].float() if experts.has_bias else 0)
        rows = experts._apply_gate(rows) @ down
        rows = rows + (experts.down_proj_bias[expert].float() if experts.has_bias else 0)
        out.index_add_(0, token, rows * weights[token, number, None].float())
    return out


def run(experts: nn.Module, implementation: str, batch: Batch) -> Tensor:
    experts.config._experts_implementation = implementation
    with torch.inference_mode():
        return experts(*batch)


def check(experts: nn.Module, batch: Batch) -> tuple[float, float, bool]:
    """Relative errors of ours and of `grouped_mm`; and whether ours gives the same bits again, in any order of rows."""
    want = exact(experts, *batch)
    ours, theirs = (run(experts, name, batch) for name in (IMPLEMENTATION, "grouped_mm"))
    errors = [float((out.float() - want).norm() / want.norm()) for out in (ours, theirs)]
    order = torch.randperm(len(ours), device=ours.device)
    shuffled = run(experts, IMPLEMENTATION, tuple(part[order] for part in batch))
    again = run(experts, IMPLEMENTATION, batch)
    return errors[0], errors[1], torch.equal(again, ours) and torch.equal(shuffled, ours[order])


def microseconds(function: Callable[[], object], *, repeats: int = 20) -> float:
    """Median time in a captured graph, which has it five times over; on a CPU, nothing is timed."""
    if not torch.cuda.is_available():
        function()
        return float("nan")
    with torch.inference_mode():
        for _ in range(3):
            function()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(5):
                function()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / 5)
    return sorted(times)[repeats // 2]


def parts(experts: nn.Module, batch: Batch) -> dict[str, float]:
    """Microseconds of each operator, of the layer through ours, and through `grouped_mm` compiled."""
    x, ids, weights = batch
    ops = torch.ops.parquetry
    pairs, rows, ends = ops.place_experts(ids, experts.num_experts)
    biases = (experts.gate_up_proj_bias, experts.down_proj_bias) if experts.has_bias else (None, None)
    placed, top_k = (pairs, ends, experts.is_transposed), ids.shape[1]
    products = ops.multiply_experts(x, experts.gate_up_proj, biases[0], *placed, top_k, experts.expert_gate)
    out = ops.multiply_experts(products, experts.down_proj, None, *placed, 0, OPEN)
    compiled = torch.compile(experts, dynamic=False) if torch.cuda.is_available() else experts
    return {
        "place": microseconds(lambda: ops.place_experts(ids, experts.num_experts)),
        "up, gate": microseconds(
            lambda: ops.multiply_experts(x, experts.gate_up_proj, biases[0], *placed, top_k, experts.expert_gate)
        ),
        "down": microseconds(lambda: ops.multiply_experts(products, experts.down_proj, None, *placed, 0, OPEN)),
        "sum": microseconds(lambda: ops.sum_experts(out, rows, ends, weights, biases[1], ids)),
        "all": microseconds(lambda: run(experts, IMPLEMENTATION, batch)),
        "grouped_mm": microseconds(lambda: run(compiled, "grouped_mm", batch)),
    }


def main() -> None:
    args = parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, experts = one_layer(args.model, device)
    shape = Experts.of(make_config(args.model))
    print(f"{args.model}, {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}")
    columns = ["tokens", "error", "of grouped_mm", "skewed", "same bits"]
    columns += ["place", "up, gate", "down", "sum", "all", "grouped_mm", "TB/s"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for num_tokens in args.tokens:
        batch = make_batch(model.config, num_tokens, device)
        error, theirs, is_same = check(experts, batch)
        skewed, _, is_same_skewed = check(experts, make_batch(model.config, num_tokens, device, is_skewed=True))
        times = parts(experts, batch)
        torch._dynamo.reset()
        rate = 2e-6 * shape.size * len(batch[1].unique()) / times["all"]
        cells = [f"{num_tokens}", f"{error:.1e}", f"{theirs:.1e}", f"{skewed:.1e}", str(is_same and is_same_skewed)]
        print("| " + " | ".join([*cells, *(f"{micros:,.1f}" for micros in times.values()), f"{rate:.2f}"]) + " |")


if __name__ == "__main__":
    main()
