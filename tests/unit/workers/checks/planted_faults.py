"""Ten wrong ways to compute a packed model. Each is a small mistake of the kind that a kernel or a change can make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec
from parquetry.workers.packed.forward import Forward


class WrongBackend(AttentionBackend):
    """The backend of a forward pass with one mistake in it; what a fault does not change is the backend's own."""

    def __init__(self, right: AttentionBackend) -> None:
        self.right = right
        self.name = right.name

    def write(self, call: AttentionCall) -> None:
        self.right.write(call)

    def decode(self, call: AttentionCall) -> Tensor:
        return self.right.decode(call)

    def prefill(self, call: AttentionCall) -> Tensor:
        return self.right.prefill(call)


class SwappedHead(WrongBackend):
    """The outputs of the first two heads change places."""

    def decode(self, call: AttentionCall) -> Tensor:
        return swap_heads(super().decode(call))

    def prefill(self, call: AttentionCall) -> Tensor:
        return swap_heads(super().prefill(call))


def swap_heads(out: Tensor) -> Tensor:
    order = [1, 0, *range(2, out.shape[1])]
    return out[:, order]


class WrongSpec(WrongBackend):
    """A layer is asked for something else than what its model says."""

    def wrong(self, spec: AttentionSpec) -> AttentionSpec:
        raise NotImplementedError

    def decode(self, call: AttentionCall) -> Tensor:
        return super().decode(replace(call, spec=self.wrong(call.spec)))

    def prefill(self, call: AttentionCall) -> Tensor:
        return super().prefill(replace(call, spec=self.wrong(call.spec)))


class WrongScale(WrongSpec):
    """Scores are half again too large, as after a scale that belongs to something else."""

    def wrong(self, spec: AttentionSpec) -> AttentionSpec:
        return replace(spec, scale=1.5 * spec.scale)


class ShortWindow(WrongSpec):
    """A sliding window is one token too short; layers without one get one of 8."""

    def wrong(self, spec: AttentionSpec) -> AttentionSpec:
        return replace(spec, sliding_window=(spec.sliding_window or 9) - 1)


class NeighboursToken(WrongBackend):
    """The last token of every chunk reads the value of the first token of the step."""

    def prefill(self, call: AttentionCall) -> Tensor:
        out = super().prefill(call).clone()
        ends = call.prefill.cu_seqlens[1:].long() - 1
        heads = call.v[:1].repeat_interleave(out.shape[1] // call.v.shape[1], 1)
        out[ends] = 0.7 * out[ends] + 0.3 * heads
        return out


class LostKey(WrongBackend):
    """A decode does not see its own key."""

    def decode(self, call: AttentionCall) -> Tensor:
        shorter = replace(call.step, decode_lens=(call.step.decode_lens - 1).clamp_min(1))
        return super().decode(replace(call, step=shorter))


class StaleBlock(WrongBackend):
    """The first token of every step is not written to the cache."""

    def write(self, call: AttentionCall) -> None:
        super().write(call.tokens(1))


@contextmanager
def wrong_backend(kind: type[WrongBackend], forward: Forward) -> Iterator[None]:
    right, forward.backend = forward.backend, kind(forward.backend)
    try:
        yield
    finally:
        forward.backend = right


@contextmanager
def hooked(module: nn.Module, change: Callable[..., Any]) -> Iterator[None]:
    """`change(inputs, output)` returns what the module gives instead."""
    handle = module.register_forward_hook(
        lambda _, args, kwargs, out: change((*args, *kwargs.values()), out), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def first_of(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def with_first(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def missing_residual(layers: nn.ModuleList) -> Iterator[None]:
    """The middle layer forgets what it was given."""
    with hooked(layers[len(layers) // 2], lambda args, out: with_first(out, first_of(out) - args[0])):
        yield


@contextmanager
def scaled_layer(layers: nn.ModuleList) -> Iterator[None]:
    """What the middle layer adds is a twentieth too large, as with a scale of another layer's weights."""

    def change(args: tuple[Any, ...], out: Any) -> Any:
        return with_first(out, args[0] + 1.05 * (first_of(out) - args[0]))

    with hooked(layers[len(layers) // 2], change):
        yield


@contextmanager
def shifted_rows(layers: nn.ModuleList) -> Iterator[None]:
    """The last layer gives the last token of a step what belongs to the one before it."""

    def change(_: tuple[Any, ...], out: Any) -> Any:
        hidden = first_of(out).clone()
        if hidden.shape[1] > 1:
            hidden[:, -1] = hidden[:, -2]
        return with_first(out, hidden)

    with hooked(layers[-1], change):
        yield


@contextmanager
def dropped_numbers(layers: nn.ModuleList) -> Iterator[None]:
    """One number in 64 of what the first layer gives is lost, as with a tile that nobody computes."""

    def change(_: tuple[Any, ...], out: Any) -> Any:
        hidden = first_of(out).clone()
        hidden[..., ::64] = 0
        return with_first(out, hidden)

    with hooked(layers[0], change):
        yield


BACKENDS = (SwappedHead, WrongScale, ShortWindow, NeighboursToken, LostKey, StaleBlock)
LAYERS = (missing_residual, scaled_layer, shifted_rows, dropped_numbers)
FAULTS = [kind.__name__ for kind in BACKENDS] + [change.__name__ for change in LAYERS]


@contextmanager
def planted(name: str, forward: Forward, layers: nn.ModuleList) -> Iterator[None]:
    """Compute with this fault."""
    with ExitStack() as stack:
        for kind in BACKENDS:
            if kind.__name__ == name:
                stack.enter_context(wrong_backend(kind, forward))
        for change in LAYERS:
            if change.__name__ == name:
                stack.enter_context(change(layers))
        yield
