"""What an operator may turn on the packed engine."""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION_CHOICES = ("auto", "sdpa", "triton", "flash_attention_2", "torch_varlen")


@dataclass(frozen=True, kw_only=True)
class PackedOptions:
    """Sizes and switches of one packed engine. None means: decided from the device and the model."""

    #: one of ATTENTION_CHOICES
    attention: str = "auto"
    #: what the KV cache keeps: `auto`, what the model computes with, or `fp8`, half of it
    kv_dtype: str = "auto"
    #: most tokens one step computes: decodes first, prefill chunks fill the rest; see waves.py for the number
    token_budget: int = 8448
    #: most sequences that hold a lane at once
    max_num_seqs: int = 1024
    #: tokens per block of the KV cache
    block_size: int | None = None
    #: blocks of the KV cache; None sizes it from free memory
    num_blocks: int | None = None
    #: share of the device memory the engine may use, weights included
    memory_fraction: float = 0.9
    #: bytes of the device that this engine may take, of which it uses that share; None: the whole device
    memory_limit: int | None = None
    #: longest sequence, prompt and output together; None takes the model's own limit
    max_model_len: int | None = None
    #: torch.compile for the decoder layers and the sampler (CUDA only)
    compile: bool = True
    #: replay decode steps as CUDA graphs (CUDA only)
    graphs: bool = True
    #: reuse the blocks of a prompt prefix that is already in the cache
    prefix_cache: bool = True
    #: schedule step n+1 while the device runs step n; None means: on CUDA
    lookahead: bool | None = None

    def __post_init__(self) -> None:
        if self.attention not in ATTENTION_CHOICES:
            raise ValueError(f"attention is {self.attention!r}; choose one of {', '.join(ATTENTION_CHOICES)}")
        if min(self.token_budget, self.max_num_seqs) < 1:
            raise ValueError("token_budget and max_num_seqs must be at least 1")
        if not 0.0 < self.memory_fraction <= 1.0:
            raise ValueError(f"memory_fraction is {self.memory_fraction}; it must lie in (0, 1]")

    @property
    def num_lanes(self) -> int:
        """Lanes to keep: every decode needs one token of the budget."""
        return min(self.max_num_seqs, self.token_budget)
