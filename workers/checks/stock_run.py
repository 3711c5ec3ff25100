"""What the stock model computes on the check's prompts, layer by layer, and how much of it is rounding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from parquetry.workers.checks.precise_layer import ABOVE, precise_layer
from parquetry.workers.checks.watched_layers import LayerCall, watching

log = logging.getLogger(__name__)

#: ids (1, num_tokens) to what the model ends with, (num_tokens, size)
Forward = Callable[[Tensor], Tensor]
#: what an output of each dtype is off by at the least, as a share of its size: half the last bit, over many numbers
ROUNDING = {torch.bfloat16: 1e-3, torch.float16: 1.3e-4, torch.float32: 1e-6, torch.float64: 1e-13}
#: float32 products of a GPU's kernels may keep 10 bits of what they multiply
TENSOR_CORE_ROUNDING = 5e-4
#: how often the input of a layer that chooses among experts is rounded otherwise
NUM_ROUNDINGS = 4
#: by how many times its noise an output moves when another expert is chosen, at the least
REROUTED = 8.0
#: the same where no more precise layer can be made, with room for all that a layer rounds in between
ROUNDING_OF_A_LAYER = 10.0


@dataclass
class LayerRun:
    """One layer on one prompt."""

    #: (num_tokens, dim) in the model's dtype: what came in and what came out
    given: Tensor
    output: Tensor
    #: (num_tokens, dim) one precision up
    wanted: Tensor
    #: (num_tokens,) how far the stock output is from that, never less than rounding
    noise: Tensor


@dataclass
class PromptRun:
    """One prompt through the stock model."""

    tokens: np.ndarray
    layers: list[LayerRun] = field(default_factory=list)
    #: (num_tokens, size) float32: the logits, or whatever the model ends with
    end: Tensor = field(default_factory=lambda: torch.empty(0))


@torch.inference_mode()
def run_stock(
    model: PreTrainedModel,
    layers: nn.ModuleList,
    prompts: Sequence[np.ndarray],
    shared: tuple[object, ...] = (),
    forward: Forward | None = None,
) -> list[PromptRun]:
    """Run each prompt alone through `model` as it is, and every layer again one precision up.

    `shared` is what copies of layers refer to rather than copy. `forward` computes what a run ends with, the logits if
    it is None.
    """
    runs, calls = [], []
    for tokens in prompts:
        run, of_layers = _run_prompt(forward or partial(_logits, model), layers, tokens, model.device)
        runs.append(run)
        calls.append(of_layers)
    for number, first in enumerate(calls[0]):
        of_layer = [(call[number], run.layers[number]) for call, run in zip(calls, runs, strict=True)]
        _run_precisely(first.layer, model.dtype, of_layer, shared)
    return runs


def _logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


def _run_prompt(
    forward: Forward, layers: nn.ModuleList, tokens: np.ndarray, device: torch.device
) -> tuple[PromptRun, list[LayerCall]]:
    run, calls = PromptRun(tokens), []

    def note(_: int, call: LayerCall, output: Tensor) -> Tensor:
        calls.append(call)
        nothing = torch.empty(0)
        run.layers.append(LayerRun(call.hidden[0], output[0], nothing, nothing))
        return output

    ids = torch.from_numpy(tokens).long().to(device)
    with watching(layers, note):
        run.end = forward(ids[None]).float()
    return run, calls


def _run_precisely(
    layer: nn.Module, dtype: torch.dtype, calls: list[tuple[LayerCall, LayerRun]], shared: tuple[object, ...]
) -> None:
    """Fill in what one precision up gives, or the stock output itself where the layer cannot be copied."""
    above = ABOVE[dtype]
    try:
        precise = precise_layer(layer, above, dtype, shared)
        for call, run in calls:
            run.wanted = call.of(precise, above)
            run.noise = torch.maximum(distance(run.output, run.wanted), _rounding(run, dtype))
            if routes(layer):
                moved = _rerouting(precise, call, run, dtype)
                run.noise = torch.where(moved > REROUTED * run.noise, moved, run.noise)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, ValueError) as error:
        log.info(
            "%s cannot be computed one precision up (%s): it is held against its stock output",
            type(layer).__name__,
            error,
        )
        for _, run in calls:
            run.wanted = run.output.to(above)
            run.noise = _rounding(run, dtype) * ROUNDING_OF_A_LAYER


def _rerouting(precise: nn.Module, call: LayerCall, run: LayerRun, dtype: torch.dtype) -> Tensor:
    """(num_tokens,) how far the output moves when the input is rounded otherwise.

    Where two experts are as good as equal, rounding decides between them: such a token may be answered by either.
    """
    above, moved = ABOVE[dtype], torch.zeros_like(run.noise)
    random = torch.Generator(device=run.given.device).manual_seed(0)
    for _ in range(NUM_ROUNDINGS):
        draw = torch.randn(run.given.shape, generator=random, device=run.given.device, dtype=above)
        given = run.given.to(above) * (1 + torch.finfo(dtype).eps * draw)
        outputs = call.with_hidden(given[None]).of(precise, above)
        moved = torch.maximum(moved, distance(outputs - given + run.given.to(above), run.wanted))
    return moved


def routes(layer: nn.Module) -> bool:
    """Whether a layer chooses among experts."""
    return any(name.rsplit(".", 1)[-1] == "experts" for name, _ in layer.named_modules())


def _rounding(run: LayerRun, dtype: torch.dtype) -> Tensor:
    """(num_tokens,) what the output is off by at the least."""
    size = run.wanted.norm(dim=-1).float()
    floor = ROUNDING[dtype] * size
    if dtype is torch.float32 and run.wanted.is_cuda:
        update = distance(run.given, run.wanted)
        floor = torch.maximum(floor, TENSOR_CORE_ROUNDING * update)
    return floor


def distance(x: Tensor, y: Tensor) -> Tensor:
    """(num_tokens,) float32: the length of x - y, both (num_tokens, dim); infinite where it is no number."""
    gap = (x.to(y.dtype) - y).norm(dim=-1).float()
    return torch.where(gap.isfinite(), gap, torch.inf)
