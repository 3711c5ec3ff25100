"""What is done once so that every step is fast: int8 kernels, merged projections, compiled layers, captured steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.fusing.experts import has_experts, use_expert_kernels
from parquetry.workers.fusing.int8_linear import has_int8_layers, swap_int8_layers
from parquetry.workers.fusing.merged_projections import merge_projections
from parquetry.workers.packages import is_installed
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.checks.hooked_layers import check_logits
from parquetry.workers.packed.compile import compile_layers, reset_layers
from parquetry.workers.packed.graphs import DecodeGraphs
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.runner import ModelRunner

log = logging.getLogger(__name__)
ON_ANOTHER_RANK = "another rank of the engine could not"


def speed_up(
    model: nn.Module, runner: ModelRunner, layers: Sequence[LayerShape], options: PackedOptions
) -> Callable[[], None]:
    """On CUDA, give int8 weights our kernels, and compile the layers when asked; returns what undoes it."""
    undos: list[Callable[[], None]] = []
    if model.device.type == "cuda" and is_installed("triton") and has_int8_layers(model):
        undos.append(try_change(model, runner, "int8 kernels", lambda: swap_int8_layers(model)))
    if model.device.type == "cuda" and is_installed("triton") and has_experts(model):
        undos.append(try_change(model, runner, "experts kernels", lambda: use_expert_kernels(model) or (lambda: None)))
    quantizer = getattr(model, "hf_quantizer", None)
    if model.device.type == "cuda" and options.compile and getattr(quantizer, "is_compileable", True):
        is_shared = runner.group.size > 1
        undos.append(try_change(model, runner, "compiled layers", lambda: compile_merged(model, layers, is_shared)))

    def undo() -> None:
        for one in reversed(undos):
            one()

    return undo


def compile_merged(model: nn.Module, layers: Sequence[LayerShape], is_shared: bool) -> Callable[[], None]:
    """Merge projections and compile the layers; returns what undoes it."""
    put_back = merge_projections(model)
    compile_layers(model, layers, is_shared=is_shared)

    def undo() -> None:
        put_back()
        reset_layers(model, layers)

    return undo


def try_change(
    model: nn.Module, runner: ModelRunner, what: str, change: Callable[[], Callable[[], None]]
) -> Callable[[], None]:
    """Make a change that may not move the logits beyond rounding; returns what undoes it.

    A change that does not work, or moves them, is taken back with a warning.
    """
    want = runner.prove()
    undo = change()
    problem = problem_of(lambda: check_logits(model, runner.prove(), want, f"logits differ with {what}"))
    if runner.group.all_agree(problem is None):
        return undo
    undo()
    log.warning("runs without %s: %s", what, problem or ON_ANOTHER_RANK)
    return lambda: None


def problem_of(attempt: Callable[[], None]) -> str | None:
    """Why `attempt` did not work, or None. Raises OutOfMemoryError."""
    try:
        attempt()
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, UnsupportedModel) as error:
        return first_line(error)
    return None


def first_line(error: Exception) -> str:
    """What the error says, without its traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def capture_graphs(runner: ModelRunner, options: PackedOptions, num_blocks: int) -> DecodeGraphs | None:
    """Graphs of every decode size, or None off CUDA, when not asked for, or when the model cannot be captured."""
    if runner.lanes.device.type != "cuda" or not options.graphs or options.num_lanes < 2:
        return None
    graphs = DecodeGraphs(runner, options.num_lanes, num_blocks)
    start = time.perf_counter()
    problem = problem_of(graphs.prepare)
    if not runner.group.all_agree(problem is None):
        log.warning("decode runs without CUDA graphs: %s", problem or ON_ANOTHER_RANK)
        return None
    torch.cuda.empty_cache()
    log.info("captured %d decode sizes in %.1f s", len(graphs.sizes), time.perf_counter() - start)
    return graphs
