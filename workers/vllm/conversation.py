"""What an engine over vLLM needs of a task: how a request is asked, and what the answer means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from parquetry.workers.request import Result


@dataclass(frozen=True)
class Asked:
    """One request in vLLM's words."""

    prompt: Any
    #: SamplingParams or PoolingParams
    params: Any
    #: LoRARequest, None for the model as it is
    lora: Any = None
    tokenization: dict[str, Any] = field(default_factory=dict)


class Conversation(Protocol):
    """One task's requests and results."""

    def ask(self, request: Any) -> Asked:
        """Raises ValueError with the row's error, one short sentence."""

    def answer(self, request: Any, output: Any) -> Result:
        """The result of a finished output."""

    def refuse(self, request: Any, reason: str) -> Result:
        """The error result of a request."""

    def num_prompt_tokens(self, output: Any) -> int: ...

    def num_output_tokens(self, output: Any) -> int: ...
