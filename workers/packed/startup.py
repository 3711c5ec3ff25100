"""What is done once so that every step is fast: merged projections, compiled layers, captured decode steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import nn

from workers.packed.compile import compile_layers, reset_layers
from workers.packed.graphs import DecodeGraphs
from workers.packed.kv_cache import LayerShape
from workers.packed.merge import merge_projections
from workers.packed.options import PackedOptions
from workers.packed.runner import ModelRunner

log = logging.getLogger(__name__)


def speed_up(model: nn.Module, layers: Sequence[LayerShape], options: PackedOptions) -> Callable[[], None]:
    """Merge projections and compile the layers, on CUDA and when asked; returns what undoes it."""
    if model.device.type != "cuda" or not options.compile:
        return lambda: None
    put_back = merge_projections(model)
    count = compile_layers(model, layers)
    log.info("compiling %d decoder layers", count)

    def undo() -> None:
        put_back()
        reset_layers(model, layers)

    return undo


def capture_graphs(runner: ModelRunner, options: PackedOptions, num_blocks: int) -> DecodeGraphs | None:
    """Graphs of every decode size, or None off CUDA, when not asked for, or when the model cannot be captured."""
    if runner.lanes.device.type != "cuda" or not options.graphs or options.num_lanes < 2:
        return None
    graphs = DecodeGraphs(runner, options.num_lanes, num_blocks)
    try:
        seconds = graphs.capture_all()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        log.warning("decode runs without CUDA graphs: %s", str(error).splitlines()[0])
        return None
    torch.cuda.empty_cache()
    log.info("captured %d decode sizes in %.1f s", len(graphs.sizes), seconds)
    return graphs
