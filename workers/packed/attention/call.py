"""What an attention backend is told: one layer's queries, keys and values, and where the step's tokens live."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class AttentionSpec:
    """What one layer asks of its attention besides q, k and v."""

    scale: float
    #: keys a query may see, itself included; 0 means all
    sliding_window: int = 0
    #: scores become softcap * tanh(scores / softcap); 0 means off
    softcap: float = 0.0
    #: (num_heads,) logits of a key that has no value
    sinks: Tensor | None = None
    #: values are the first numbers of keys, and stand in no cache of their own
    values_in_keys: bool = False


@dataclass
class PrefillTensors:
    """The chunks of a step, behind its decodes. Tensors are int32 on the device, lists are on the host."""

    #: (num_chunks + 1,) offsets into the chunk tokens, and the longest chunk
    cu_seqlens: Tensor
    max_seqlen: int
    #: (num_chunks,) tokens each chunk attends to, its own included
    context_lens: Tensor
    #: (num_chunks,) lanes, which are rows of `AttentionStep.tables`
    lanes: Tensor
    #: True when no chunk has anything before it: keys need not be read back from the blocks
    is_fresh: bool
    query_lens: list[int]
    host_context_lens: list[int]


@dataclass
class SharedKeys:
    """First keys that decodes have in common, as `SharedPrefix` says it on the host; int32 on the device."""

    #: (num_decodes,) tokens each decode shares with its tile, 0 for those that share nothing
    lens: Tensor
    #: (num_tiles,) first decode of each tile, and how many follow it; a tile of none is left out
    starts: Tensor
    counts: Tensor


@dataclass
class AttentionStep:
    """Where the tokens of the step that is being computed live."""

    #: (num_tokens,) int64, slot of each token in the flattened cache
    slot_mapping: Tensor
    #: (num_lanes + 1, max_blocks) int32
    tables: Tensor
    block_size: int
    num_decodes: int
    #: (num_decodes,) lanes, and tokens each decode attends to, its own included
    decode_lanes: Tensor
    decode_lens: Tensor
    prefill: PrefillTensors | None = None
    #: for backends that can read it once; the others read it for every decode
    shared: SharedKeys | None = None


@dataclass
class AttentionCall:
    """Attention of one layer over tokens of the step, which lie side by side."""

    #: (num_tokens, num_heads, key_dim)
    q: Tensor
    #: (num_tokens, num_kv_heads, key_dim), and with value_dim
    k: Tensor
    v: Tensor
    #: (num_blocks, num_kv_heads, block_size, key_dim), and with value_dim
    k_cache: Tensor
    v_cache: Tensor
    step: AttentionStep
    spec: AttentionSpec
    #: where the tokens begin in the step
    start: int = 0

    @property
    def slot_mapping(self) -> Tensor:
        """(num_tokens,) int64, slot of each token in the flattened cache."""
        return self.step.slot_mapping[self.start : self.start + len(self.k)]

    @property
    def prefill(self) -> PrefillTensors:
        """The chunks of the step, where there are some."""
        assert self.step.prefill is not None
        return self.step.prefill

    def tokens(self, start: int, stop: int | None = None) -> AttentionCall:
        """The call for tokens `[start, stop)` of this one."""
        q, k, v = (x[start:stop] for x in (self.q, self.k, self.v))
        return AttentionCall(q, k, v, self.k_cache, self.v_cache, self.step, self.spec, self.start + start)

    def inner_contiguous(self) -> AttentionCall:
        """With innermost stride 1 of q, k and v, which is all that kernels ask for."""
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (self.q, self.k, self.v))
        return replace(self, q=q, k=k, v=v)
