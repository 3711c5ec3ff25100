"""Generation: our requests as vLLM's, and its outputs as our completions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parquetry.workers.checkpoint.adapter import Adapter, unknown_adapter
from parquetry.workers.request import Completion, GenerationRequest
from parquetry.workers.vllm.conversation import Asked
from parquetry.workers.vllm.sampling import sampling_of
from parquetry.workers.vocabulary_check import unknown_ids

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.lora.request import LoRARequest


@dataclass(frozen=True)
class PromptLimits:
    """What a prompt may be: `vocab_size` rows of the table of vectors, `max_model_len` tokens with the output."""

    vocab_size: int
    max_model_len: int

    def check(self, ids: NDArray[np.int32]) -> None:
        """Raise ValueError with the row's error."""
        if not len(ids):
            raise ValueError("the prompt has no tokens")
        if len(ids) >= self.max_model_len:
            raise ValueError(f"the prompt has {len(ids)} tokens, but with an output it may have {self.max_model_len}")
        if problem := unknown_ids("the prompt", ids, self.vocab_size):
            raise ValueError(problem)


class Generation:
    """One model's; `adapters` by the name that rows call them."""

    def __init__(self, eos_ids: Collection[int], limits: PromptLimits, adapters: Mapping[str, Adapter]) -> None:
        self._eos_ids = tuple(eos_ids)
        self._limits = limits
        self._adapters = {
            name: _lora(number, adapter) for number, (name, adapter) in enumerate(adapters.items(), start=1)
        }

    def ask(self, request: GenerationRequest) -> Asked:
        """Raises ValueError with the row's error for a request that the model cannot answer."""
        self.check_prompt(request)
        return Asked(self.prompt(request), sampling_of(request, self._eos_ids), self._lora_of(request))

    def check_prompt(self, request: GenerationRequest) -> None:
        """Raise ValueError for a prompt without tokens, with too many, or with some that the model does not know."""
        self._limits.check(request.prompt_ids)

    def prompt(self, request: GenerationRequest) -> Any:
        """As vLLM takes it."""
        return {"type": "token", "prompt_token_ids": request.prompt_ids.tolist()}

    def _lora_of(self, request: GenerationRequest) -> LoRARequest | None:
        name = request.adapter or ""
        if name and name not in self._adapters:
            raise ValueError(unknown_adapter(name, self._adapters))
        return self._adapters.get(name)

    def answer(self, request: GenerationRequest, output: RequestOutput) -> Completion:
        """What a finished output says of its request."""
        made = output.outputs[0]
        reason = made.finish_reason or "nothing"
        if reason not in ("stop", "length"):
            return self.refuse(request, f"vLLM ended the row with {reason}")
        ids = np.asarray(made.token_ids, np.int32)
        ids = ids[: len(ids) - self._ends_in_stop_id(request, made.stop_reason, ids)]
        return Completion(
            id=request.id,
            output_ids=ids,
            finish_reason=reason,
            logprobs=_logprobs(made.logprobs, ids) if request.params.logprobs else None,
            num_prompt_tokens=len(output.prompt_token_ids or ()),
        )

    def _ends_in_stop_id(self, request: GenerationRequest, stop_reason: object, ids: NDArray[np.int32]) -> bool:
        """Whether the last token says that the row is over, and is no part of its output."""
        if isinstance(stop_reason, str) or not len(ids):
            return False
        return int(ids[-1]) in {*self._eos_ids, *request.params.stop_ids}

    def refuse(self, request: GenerationRequest, reason: str) -> Completion:
        """The error result of a request; `reason` is one short sentence."""
        return Completion(id=request.id, output_ids=np.empty(0, np.int32), finish_reason="error", error=reason)

    def num_prompt_tokens(self, output: RequestOutput) -> int:
        return len(output.prompt_token_ids or ())

    def num_output_tokens(self, output: RequestOutput) -> int:
        return len(output.outputs[0].token_ids)


def _lora(number: int, adapter: Adapter) -> LoRARequest:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=f"adapter-{number}", lora_int_id=number, lora_path=str(adapter.folder.resolve()))


def _logprobs(found: Any, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """(num_output_tokens,) of the chosen tokens, of what the model itself said before penalties and filters."""
    return np.array([found[at][int(token)].logprob for at, token in enumerate(ids)], np.float32)
