"""A changed model beside the stock one: each layer on the same input, its error in units of the stock layer's noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parquetry.workers.checks.precise_layer import is_quantized_linear
from parquetry.workers.checks.stock_run import ROUNDING, LayerRun, PromptRun, distance, routes
from parquetry.workers.checks.watched_layers import LayerCall, watching
from parquetry.workers.engine import WrongAnswers

#: keeps what is zero, such as the embedding of a padding token, from being divided by zero
TINY = 1e-30
#: how many times the stock layer's noise the error of half of the tokens may be, and that of any token
TYPICAL_LIMIT, LARGEST_LIMIT = 1.8, 12.0
#: the latter where weights are quantized: libraries have another kernel for a single token than for many
QUANTIZED_LARGEST_LIMIT = 20.0
#: share of a layer's tokens that may go beyond, where rounding decides between experts unforeseen
REROUTED_SHARE = 0.02
#: how far what comes in may be from what the stock layer was given, in units of rounding
GIVEN_LIMIT = 8.0
#: the same for logits, whose noise is the rounding of the last hidden states and of the logits themselves
LOGITS_LIMIT = 16.0
#: the same for logits of a quantized product, where the last bit of an activation may move it by a whole step
QUANTIZED_LOGITS_LIMIT = 300.0


@dataclass(frozen=True)
class Span:
    """Tokens [start, stop) of one prompt."""

    prompt: int
    start: int
    stop: int


class Comparison:
    """Watches the layers while a changed model computes the prompts, in whatever pieces.

    Every layer gets the output of the stock layer before it, so that an error stays where it is made: it is neither
    magnified by what follows, as rounding is in a deep model, nor lost in it.
    """

    def __init__(self, runs: Sequence[PromptRun], layers: nn.ModuleList, head: nn.Module | None) -> None:
        self._runs = runs
        self._logits_limit = QUANTIZED_LOGITS_LIMIT if head is not None and is_quantized_linear(head) else LOGITS_LIMIT
        self._layers = layers
        self._spans: Sequence[Span] = ()
        self._errors: list[list[Tensor]] = [[] for _ in runs[0].layers]
        #: (num_tokens, dim) of the last layer, as the changed model computed it in the last pass
        self.last_output = torch.empty(0)
        self._given: list[Tensor] = []
        self._logits: list[Tensor] = []

    @contextmanager
    def watching(self, spans: Sequence[Span]) -> Iterator[None]:
        """The forward pass in here computes `spans`, one behind the other."""
        self._spans = spans
        with watching(self._layers, self._watch):
            yield

    def _watch(self, number: int, call: LayerCall, output: Tensor) -> Tensor:
        of_layer = [run.layers[number] for run in self._runs]
        self.last_output = output[0]
        noise = self._rows(of_layer, "noise")
        self._errors[number].append(distance(output[0], self._rows(of_layer, "wanted")) / (noise + TINY))
        given = self._rows(of_layer, "given")
        self._given.append(
            distance(call.hidden[0], given) / (ROUNDING[given.dtype] * given.norm(dim=-1).float() + TINY)
        )
        return self._rows(of_layer, "output").to(output.dtype)[None]

    def _rows(self, of_layer: Sequence[LayerRun], name: str) -> Tensor:
        return torch.cat([getattr(of_layer[span.prompt], name)[span.start : span.stop] for span in self._spans])

    def see_end(self, end: Tensor) -> None:
        """What the pass ended with: logits (num_tokens, vocab), or the last hidden states."""
        want = torch.cat([self._runs[span.prompt].end[span.start : span.stop] for span in self._spans])
        dtype = self._runs[0].layers[0].given.dtype
        size = want.norm(dim=-1)
        # a constant added to all of them changes no token
        gap = distance(centred(end), centred(want))
        self._logits.append(gap / (ROUNDING[dtype] * size + TINY))

    def require(self, what: str) -> None:
        """Raise WrongAnswers, beginning with `what`, where the changed model computes something else."""
        problem = self._problem_of_layers() or self._problem_around_layers()
        if problem is not None:
            raise WrongAnswers(f"{what}: {problem}")

    @property
    def worst(self) -> tuple[float, float]:
        """The largest error of half of a layer's tokens, and of any, in units of the stock layer's noise."""
        errors = [torch.cat(errors) for errors in self._errors]
        return max(float(e.median()) for e in errors), max(float(e.max()) for e in errors)

    def _problem_of_layers(self) -> str | None:
        for number, parts in enumerate(self._errors):
            errors, layer = torch.cat(parts), self._layers[number % len(self._layers)]
            typical, largest = float(errors.median()), float(errors.max())
            limit = largest_limit(layer)
            beyond = float((errors > limit).float().mean())
            allowed = REROUTED_SHARE if routes(layer) else 0.0
            if not typical <= TYPICAL_LIMIT or not beyond <= allowed:
                return (
                    f"layer {number + 1} of {len(self._errors)} is off by {typical:.3g} times its stock form's noise "
                    f"on half of the tokens and by {largest:.3g} at most; {TYPICAL_LIMIT:g} and {limit:g} are "
                    "allowed"
                )
        return None

    def _problem_around_layers(self) -> str | None:
        given = float(torch.cat(self._given).max())
        if not given <= GIVEN_LIMIT:
            return (
                f"what the layers are given is off by {given:.3g} times its rounding, where {GIVEN_LIMIT:g} is allowed"
            )
        logits = float(torch.cat(self._logits).max()) if self._logits else 0.0
        if not logits <= self._logits_limit:
            limit = self._logits_limit
            return f"what comes behind the layers is off by {logits:.3g} times its rounding, where {limit:g} is allowed"
        return None


def largest_limit(layer: nn.Module) -> float:
    """How many times its stock form's noise a layer may be off for any token."""
    is_quantized = any(is_quantized_linear(module) for module in layer.modules())
    return QUANTIZED_LARGEST_LIMIT if is_quantized else LARGEST_LIMIT


def centred(logits: Tensor) -> Tensor:
    """Logits (num_tokens, vocab) less the mean of each row, which no sampler sees."""
    return logits.float() - logits.float().mean(-1, keepdim=True)
