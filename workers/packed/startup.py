"""What is done once so that every step is fast: int8 kernels, merged projections, compiled layers, captured steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from workers.loading.packages import is_installed
from workers.packed.compile import compile_layers, reset_layers
from workers.packed.graphs import DecodeGraphs
from workers.packed.int8_linear import swap_int8_layers
from workers.packed.kv_cache import LayerShape
from workers.packed.merge import merge_projections
from workers.packed.options import PackedOptions
from workers.packed.runner import ModelRunner

log = logging.getLogger(__name__)
ON_ANOTHER_RANK = "another rank of the engine could not"


def speed_up(
    model: nn.Module, runner: ModelRunner, layers: Sequence[LayerShape], options: PackedOptions
) -> Callable[[], None]:
    """On CUDA, give int8 weights our kernels, and compile the layers when asked; returns what undoes it."""
    if model.device.type != "cuda":
        return lambda: None
    put_back = swap_int8_layers(model) if is_installed("triton") else lambda: None
    quantizer = getattr(model, "hf_quantizer", None)
    if not options.compile or not getattr(quantizer, "is_compileable", True):
        return put_back
    undo_compile = compile_merged(model, runner, layers)

    def undo() -> None:
        undo_compile()
        put_back()

    return undo


def compile_merged(model: nn.Module, runner: ModelRunner, layers: Sequence[LayerShape]) -> Callable[[], None]:
    """Merge projections and compile the layers; returns what undoes it.

    A model that does not compile runs as it came, with a warning.
    """
    put_back = merge_projections(model)
    count = compile_layers(model, layers, is_shared=runner.group.size > 1)

    def undo() -> None:
        put_back()
        reset_layers(model, layers)

    problem = problem_of(runner.prove)
    if not runner.group.all_agree(problem is None):
        undo()
        log.warning("the decoder layers run uncompiled: %s", problem or ON_ANOTHER_RANK)
        return lambda: None
    log.info("compiled %d decoder layers", count)
    return undo


def problem_of(attempt: Callable[[], None]) -> str | None:
    """Why `attempt` did not work, or None. Raises OutOfMemoryError."""
    try:
        attempt()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return first_line(error)
    return None


def first_line(error: RuntimeError) -> str:
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
