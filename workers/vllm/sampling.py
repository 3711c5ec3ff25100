"""How a request's tokens are chosen, in vLLM's words."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.request import GenerationRequest

if TYPE_CHECKING:
    from vllm import SamplingParams

_SAME = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "skip_special_tokens",
)  # fmt: skip


def sampling_of(request: GenerationRequest, eos_ids: Collection[int]) -> SamplingParams:
    """Raises ValueError for what vLLM does not take. Our own end-of-sequence ids end a row, and no others."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = request.params
    return SamplingParams(
        **{name: getattr(params, name) for name in _SAME},
        seed=row_seed(request) if params.temperature > 0 else None,
        max_tokens=params.max_new_tokens,
        stop=list(params.stop) or None,
        stop_token_ids=sorted({*eos_ids, *params.stop_ids}),
        ignore_eos=True,
        logprobs=0 if params.logprobs else None,
        # text is made of the tokens by whoever writes the part
        detokenize=bool(params.stop),
        structured_outputs=None if params.grammar is None else structured_of(Grammar.parse(params.grammar)),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def structured_of(grammar: Grammar) -> Any:
    """The grammar as vLLM takes it."""
    from vllm.sampling_params import StructuredOutputsParams

    if grammar.kind == "json_schema":
        return StructuredOutputsParams(json=grammar.source)
    if grammar.kind == "choices":
        return StructuredOutputsParams(choice=list(grammar.source))
    return StructuredOutputsParams(regex=grammar.source)


def row_seed(request: GenerationRequest) -> int:
    """63 bits that depend on (seed, row, sample) alone, so that a row is drawn alike beside any others."""
    text = f"{request.params.seed} {request.row} {request.sample}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
