"""What is done once so that every step is fast: kernels for 8 bits, merged projections, compiled and captured steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from transformers import PreTrainedModel

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.fusing.experts import has_experts, use_expert_kernels
from parquetry.workers.fusing.fp8_linear import has_fp8_layers, swap_fp8_layers
from parquetry.workers.fusing.int8_linear import has_int8_layers, swap_int8_layers
from parquetry.workers.fusing.merged_projections import merge_projections
from parquetry.workers.packages import is_installed
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.attention.latent import absorb_projections, has_latents
from parquetry.workers.packed.checks.hopper_check import has_hopper_kernel, use_hopper_kernel
from parquetry.workers.packed.checks.paged_check import PagedCheck
from parquetry.workers.packed.compile import compile_layers, reset_layers
from parquetry.workers.packed.forward import Forward
from parquetry.workers.packed.graphs import DecodeGraphs
from parquetry.workers.packed.options import PackedOptions

log = logging.getLogger(__name__)
ON_ANOTHER_RANK = "another rank of the engine could not"

LATENTS = "latents in place of keys and values"
#: what the engine pays for each change that is taken back
COSTS = {
    "compiled layers": "a small model took 2.7 times as long on an H100",
    "int8 kernels": "8-bit products run through the library's own, which are slower than 16-bit ones",
    "fp8 kernels": "8-bit floats are multiplied layer by layer, and their inputs made 8-bit for each",
    "experts kernels": "experts run through transformers' own products",
    LATENTS: "the cache holds, and attention reads, some fifty times as much",
    "captured decode steps": "the host launches every kernel of every decode step",
}

#: makes the model faster, and leaves what undoes it on the stack
Change = Callable[[ExitStack], None]


class Changes:
    """Changes that may not move what the model computes beyond rounding: checked one by one, and undone in the end."""

    def __init__(self, forward: Forward, checks: Sequence[PagedCheck], undo: ExitStack) -> None:
        self.forward = forward
        self._checks = checks
        self._undo = undo
        #: change -> why it was taken back
        self.taken_back: dict[str, str] = {}

    def make(self, what: str, change: Change) -> None:
        """Make one change. One that does not work, or moves the layers' outputs, is taken back with a warning."""
        with ExitStack() as stack:
            problem = problem_of(lambda: self._try(what, change, stack))
            if self.forward.group.all_agree(problem is None):
                self._undo.push(stack.pop_all())
                return
        self.take_back(what, problem)

    def take_back(self, what: str, problem: str | None) -> None:
        """Note and warn that the engine runs without a change; `problem` None when another rank has one."""
        self.taken_back[what] = problem or ON_ANOTHER_RANK
        log.warning("runs without %s: %s", what, self.taken_back[what])

    def _try(self, what: str, change: Change, stack: ExitStack) -> None:
        change(stack)
        for check in self._checks:
            check.require(self.forward, f"with {what}")


def runs_without(taken_back: Mapping[str, str]) -> str:
    """What was taken back, why, and what that costs, as one line."""
    return "; ".join(f"{what} ({why}; cost: {COSTS.get(what, 'not known')})" for what, why in taken_back.items())


def keep_latents(
    changes: Changes, layers: Sequence[LayerShape], attach: Callable[[Sequence[LayerShape]], None]
) -> list[LayerShape]:
    """What the layers store: latents where they have them, else keys and values as before. `attach` gives them caches.

    Several ranks keep keys and values: each has heads of its own, and would keep all latents.
    """
    kept = list(layers)
    if changes.forward.group.size > 1 or not has_latents(layers):
        return kept
    changes.make(LATENTS, partial(use_latents, kept, attach))
    if LATENTS in changes.taken_back:
        attach(layers)
        return list(layers)
    return kept


def use_latents(
    layers: list[LayerShape], attach: Callable[[Sequence[LayerShape]], None], undo: ExitStack
) -> None:  # fmt: skip
    """Absorb the products into queries and outputs, and put what the layers then store into the list."""
    layers[:] = absorb_projections(layers, undo)
    attach(layers)


def speed_up(
    changes: Changes, model: PreTrainedModel, layers: Sequence[LayerShape], options: PackedOptions, *, is_shared: bool
) -> None:
    """On CUDA, use the kernels made for the weights and the card, and compile the layers when asked.

    `is_shared`: by several ranks.
    """
    if model.device.type != "cuda":
        return
    if is_installed("triton") and has_int8_layers(model):
        changes.make("int8 kernels", partial(use_int8_kernels, model))
    if is_installed("triton") and has_fp8_layers(model):
        changes.make("fp8 kernels", partial(use_fp8_kernels, model))
    if is_installed("triton") and has_experts(model):
        changes.make("experts kernels", partial(use_experts, model))
    if is_installed("triton") and has_hopper_kernel(changes.forward, layers):
        changes.make("Hopper's kernel for prompts", partial(use_hopper_kernel, changes.forward, layers))
    quantizer = getattr(model, "hf_quantizer", None)
    if options.compile and getattr(quantizer, "is_compileable", True):
        changes.make("compiled layers", partial(compile_merged, model, layers, is_shared=is_shared))


def use_int8_kernels(model: PreTrainedModel, undo: ExitStack) -> None:
    """Give layers over int8 weights our kernels."""
    undo.callback(swap_int8_layers(model))


def use_fp8_kernels(model: PreTrainedModel, undo: ExitStack) -> None:
    """Give layers over 8-bit floats our kernels."""
    undo.callback(swap_fp8_layers(model))


def use_experts(model: PreTrainedModel, undo: ExitStack) -> None:
    """Give the layers of experts our kernels, where they can be served."""
    put_back = use_expert_kernels(model)
    if put_back is not None:
        undo.callback(put_back)


def compile_merged(model: PreTrainedModel, layers: Sequence[LayerShape], undo: ExitStack, *, is_shared: bool) -> None:
    """Merge projections and compile the layers."""
    undo.callback(reset_layers, model, layers)
    undo.callback(merge_projections(model))
    compile_layers(model, layers, is_shared=is_shared)


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


def capture_graphs(changes: Changes, forward: Forward, options: PackedOptions, num_blocks: int) -> DecodeGraphs | None:
    """Graphs of every decode size, or None off CUDA, when not asked for, or when the model cannot be captured."""
    if forward.device_lanes.device.type != "cuda" or not options.graphs or options.num_lanes < 2:
        return None
    graphs = DecodeGraphs(forward, options.num_lanes, num_blocks)
    start = time.perf_counter()
    problem = problem_of(graphs.prepare)
    if not forward.group.all_agree(problem is None):
        changes.take_back("captured decode steps", problem)
        return None
    torch.cuda.empty_cache()
    log.info("captured %d decode sizes in %.1f s", len(graphs.sizes), time.perf_counter() - start)
    return graphs
