"""ONNX Runtime over length-sorted padded batches: every provider, and files we did not export."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.workers.encoding.batching.queue import PADDED
from parquetry.workers.encoding.batching.row_batch import pad
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx.known_rows import KnownRows
from parquetry.workers.encoding.onnx.model_file import OnnxFile, is_ours
from parquetry.workers.encoding.onnx.named_inputs import padded_feeds
from parquetry.workers.encoding.onnx.providers import PROVIDERS, cuda_arena, open_session, runtime
from parquetry.workers.encoding.onnx.shared_batches import choose_sharing
from parquetry.workers.encoding.outputs.vectors import SENTENCE, Vectors
from parquetry.workers.encoding.queued import BatchTooLargeError, QueuedEncoder
from parquetry.workers.request import EncodeRequest

log = logging.getLogger(__name__)

#: tokens of a batch, padding included: what stays in a CPU's caches; enough to fill a GPU
DEFAULT_BUDGET = {"cpu": 4_096, "other": 32_768}
_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


@dataclass(frozen=True, kw_only=True)
class OrtOptions:
    """What both ONNX Runtime engines need to know besides the file."""

    limits: RowLimits
    vectors: Vectors
    #: full name such as CPUExecutionProvider
    provider: str = "CPUExecutionProvider"
    pad_id: int = 0
    token_budget: int | None = None
    #: float32, float16 or int8, for provenance and for how exact answers must be
    precision: str = "float32"


class OrtPaddedEncoder(QueuedEncoder):
    """Engine over an ONNX file with inputs input_ids, attention_mask and maybe token_type_ids."""

    def __init__(self, path: Path, options: OrtOptions, about: dict[str, str] | None = None) -> None:
        kind = "cpu" if options.provider == "CPUExecutionProvider" else "other"
        super().__init__(options.limits, options.token_budget or DEFAULT_BUDGET[kind], PADDED)
        self._file = OnnxFile.open(path)
        unknown = set(self._file.inputs) - _KNOWN_INPUTS
        if unknown or "input_ids" not in self._file.inputs:
            reason = (
                f"its inputs are {', '.join(self._file.inputs)}; export it for feature extraction or classification"
            )
            raise UnsupportedOptionError(option=f"the ONNX file {path}", reason=reason)
        self._about = about or {}
        arena = cuda_arena() if options.provider == PROVIDERS["cuda"] else None
        self._session = open_session(path, options.provider, arena)
        self._output = options.vectors.choose_output([output.name for output in self._session.get_outputs()])
        if self._output == SENTENCE and not is_ours(path):
            options = replace(options, vectors=options.vectors.finished)
        self._options = options
        self._dim = self._run([EncodeRequest(id=0, token_ids=np.ones(1, np.int32))]).shape[1]
        known = KnownRows.load(path.parent)
        if known is not None:
            known.check(self._run(known.requests))
        if arena is not None:
            self._fill_arena()
        self._share()

    def _share(self) -> None:
        """Let only rows of equal length share a batch where others answer differently beside longer ones."""
        try:
            sharing = choose_sharing(self.launch, self.limits, self._options.precision, self._options.pad_id)
        # whatever a file raises that cannot compute such rows: a job's trial rows tell it in a sentence
        except Exception as error:  # noqa: BLE001
            log.warning("rows beside longer ones could not be tried: %s", error)
            return
        if sharing.rows != "any":
            log.warning("%s", sharing.warning)
        self._queue.share(sharing.rows)
        self._about = {**self._about, **sharing.facts}

    def _fill_arena(self) -> None:
        """Let the arena take what a full batch of long rows needs, so that later shapes fit into it."""
        with suppress(BatchTooLargeError):
            self.launch(self.limits.long_rows(self._queue.budget))

    def launch(self, requests: list[EncodeRequest]) -> np.ndarray | list[np.ndarray]:
        lens = np.array([len(request.token_ids) for request in requests])
        try:
            return self._options.vectors.finish_rows(self._run(requests), lens)
        except runtime().capi.onnxruntime_pybind11_state.RuntimeException as error:
            if "memory" not in str(error).lower():
                raise
            raise BatchTooLargeError from error

    def collect(self, handle: np.ndarray | list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        return handle

    def _run(self, requests: list[EncodeRequest]) -> np.ndarray:
        """(num_rows, num_labels) logits, of tokens (num_tokens, num_labels), or (num_rows, dim) vectors; float32."""
        batch = pad(requests, self._options.pad_id, with_types="token_type_ids" in self._file.inputs)
        feeds: dict[str, Any] = {name: x for name, x in padded_feeds(batch).items() if name in self._file.inputs}
        self.count_padding(batch.num_padding)
        values = self._session.run([self._output], feeds)[0].astype(np.float32, copy=False)
        return self._options.vectors.flat(values, batch.lens)

    def describe(self) -> dict[str, str]:
        return {
            "backend": "onnxruntime",
            "provider": self._options.provider,
            "form": "padded, sorted by length",
            "dtype": self._options.precision,
            "onnxruntime": runtime().__version__,
            **self._about,
            **self._options.vectors.facts(self._dim),
        }
