"""What computes attention over paged blocks, whatever its kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionCall


class AttentionBackend(ABC):
    """Computes attention over paged blocks."""

    name: str
    #: tokens per block the backend reads best
    block_size: int = 16
    #: whether decodes of one step read what they share only once, for blocks of a multiple of 16 tokens
    shares_prefixes: bool = False
    #: whether chunks of a prompt are attended as fast as a whole one
    cuts_prompts_freely: bool = False

    @abstractmethod
    def write(self, call: AttentionCall) -> None:
        """Store k and v at their slots."""

    @abstractmethod
    def decode(self, call: AttentionCall) -> Tensor:
        """Store k and v, one token of each decode, and attend to them and all before.

        Returns (num_decodes, num_heads, value_dim).
        """

    @abstractmethod
    def prefill(self, call: AttentionCall) -> Tensor:
        """Attend to k and v of the step's chunks, which are stored already, and all before.

        Returns (num_chunk_tokens, num_heads, value_dim).
        """
