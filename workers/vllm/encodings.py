"""Vectors, labels and scores: texts as vLLM takes them, and what its poolers give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parquetry.workers.encoding.batching.queue import refused
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.request import EncodeRequest, Encoding
from parquetry.workers.vllm.conversation import Asked

if TYPE_CHECKING:
    from vllm import PoolingParams, PoolingRequestOutput

NOT_FINITE = "the model gave values that are not finite; try model.dtype float32"


class Encodings:
    """One model's; `vectors` makes of pooled vectors or logits what the job asks for."""

    def __init__(self, limits: RowLimits, vectors: Vectors) -> None:
        self._limits, self._vectors = limits, vectors
        by_token = "token_classify" if vectors.per_token else "classify"
        self._task = "embed" if vectors.task == "embed" else by_token

    def ask(self, request: EncodeRequest) -> Asked:
        """Raises ValueError with the row's error for a text that the model cannot take."""
        reason = self._limits.reason(request) or self._limits.unknown_ids([request]).get(request.id)
        if reason is not None:
            raise ValueError(reason)
        return Asked({"type": "token", "prompt_token_ids": request.token_ids.tolist()}, self._params(request))

    def _params(self, request: EncodeRequest) -> PoolingParams:
        from vllm import PoolingParams

        params = PoolingParams(task=self._task, use_activation=self._task != "embed")
        types = request.token_type_ids
        if types is not None and self._limits.has_types and types.any():
            params.extra_kwargs = {"compressed_token_type_ids": _second_text(types)}
        return params

    def answer(self, request: EncodeRequest, output: PoolingRequestOutput) -> Encoding:
        """The finished values; an error where they are not finite."""
        values: NDArray[np.float32] = output.outputs.data.float().numpy()
        if not np.isfinite(values).all():
            return refused(request.id, NOT_FINITE)
        # a row of one text, or of all its tokens
        rows = values.reshape(-1, values.shape[-1])
        lens = np.array([len(request.token_ids) if self._vectors.per_token else 1])
        return Encoding(id=request.id, values=self._vectors.finish_rows(rows, lens)[0])

    def refuse(self, request: EncodeRequest, reason: str) -> Encoding:
        """The error result of a request; `reason` is one short sentence."""
        return refused(request.id, reason)

    def num_prompt_tokens(self, output: PoolingRequestOutput) -> int:
        return len(output.prompt_token_ids)

    def num_output_tokens(self, output: Any) -> int:
        return 0


def _second_text(types: NDArray[np.int32]) -> int:
    """Where the second text begins. Raises ValueError for segment ids that vLLM has no words for."""
    begins = int(np.argmax(types))
    if not (types[begins:] == 1).all() or types[:begins].any():
        raise ValueError("the text has segment ids that model.backend vllm cannot pass on; set it to auto")
    return begins
