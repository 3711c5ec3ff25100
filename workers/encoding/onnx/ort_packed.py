"""ONNX Runtime on CUDA over packed batches: our export, inputs and outputs bound in device memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parquetry.workers.checkpoint.pooling import modes_of
from parquetry.workers.encoding.batching.queue import PACKED
from parquetry.workers.encoding.batching.readback import Readback
from parquetry.workers.encoding.batching.row_batch import pack
from parquetry.workers.encoding.onnx.export import export_facts
from parquetry.workers.encoding.onnx.known_rows import KnownRows
from parquetry.workers.encoding.onnx.model_file import OnnxFile
from parquetry.workers.encoding.onnx.named_inputs import packed_feeds
from parquetry.workers.encoding.onnx.ort_padded import OrtOptions
from parquetry.workers.encoding.onnx.providers import PROVIDERS, cuda_arena, open_session, runtime
from parquetry.workers.encoding.queued import BatchTooLargeError, QueuedEncoder
from parquetry.workers.request import EncodeRequest

DEFAULT_BUDGET = 32_768
_NUMPY = {torch.int64: np.int64, torch.int32: np.int32, torch.float32: np.float32}


class OrtPackedEncoder(QueuedEncoder):
    """Engine over a packed export. The session computes on torch's stream, so nothing waits between batches."""

    depth = 2

    def __init__(self, path: Path, options: OrtOptions, device: str, about: dict[str, str] | None = None) -> None:
        super().__init__(options.limits, options.token_budget or DEFAULT_BUDGET, PACKED)
        self._file, facts = OnnxFile.open(path), export_facts(path)
        self._options, self._about = options, about or {}
        self._position_start = int(facts["position_start"])
        pooled = int(facts["hidden_size"]) * len(modes_of(options.vectors.pooling))
        self._dim = pooled if options.vectors.task == "embed" else int(facts["num_labels"])
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device)
        self._session = open_session(path, PROVIDERS["cuda"], self._provider_options())
        self._run_options = runtime().RunOptions()
        # the event behind the output copy is waited for instead
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._warm_up()

    def _provider_options(self) -> dict[str, Any]:
        return {**cuda_arena(self._device.index or 0), "user_compute_stream": str(self._stream.cuda_stream)}

    def _warm_up(self) -> None:
        """Check the answers, then let the arena take what the largest batch needs, so that later shapes fit into it."""
        known = KnownRows.load(self._file.path.parent)
        if known is not None:
            known.check(self._launch(known.requests).values.wait())
        with suppress(BatchTooLargeError):
            self.launch(self.limits.long_rows(self._queue.budget)).values.wait()

    def launch(self, requests: list[EncodeRequest]) -> _Bound:
        try:
            return self._launch(requests)
        except runtime().capi.onnxruntime_pybind11_state.RuntimeException as error:
            if "memory" not in str(error).lower():
                raise
            raise BatchTooLargeError from error

    def _launch(self, requests: list[EncodeRequest]) -> _Bound:
        batch = pack(requests, with_types="token_type_ids" in self._file.inputs)
        with torch.cuda.stream(self._stream):
            inputs = {
                name: torch.from_numpy(np.ascontiguousarray(x)).pin_memory().to(self._device, non_blocking=True)
                for name, x in packed_feeds(batch, self._position_start).items()
            }
            num_outputs = batch.num_tokens if self._options.vectors.per_token else batch.num_rows
            output = torch.empty(num_outputs, self._dim, device=self._device)
            self._session.run_with_iobinding(self._bind(inputs, output), self._run_options)
            return _Bound(inputs, Readback(output), batch.lens)

    def _bind(self, inputs: dict[str, Tensor], output: Tensor) -> Any:
        binding, index = self._session.io_binding(), self._device.index or 0
        for name, x in inputs.items():
            binding.bind_input(name, "cuda", index, _NUMPY[x.dtype], tuple(x.shape), x.data_ptr())
        name = self._session.get_outputs()[0].name
        binding.bind_output(name, "cuda", index, np.float32, tuple(output.shape), output.data_ptr())
        return binding

    def collect(self, handle: _Bound) -> np.ndarray | list[np.ndarray]:
        return self._options.vectors.finish_rows(handle.values.wait(), handle.lens)

    def describe(self) -> dict[str, str]:
        return {
            "backend": "onnxruntime",
            "provider": PROVIDERS["cuda"],
            "form": "packed",
            "attention": "PackedMultiHeadAttention",
            "dtype": self._options.precision,
            "onnxruntime": runtime().__version__,
            **self._about,
            **self._options.vectors.facts(self._dim),
        }


@dataclass(frozen=True, eq=False)
class _Bound:
    """A batch's inputs, kept until its values are on the host: (num_rows, dim), or of every token."""

    inputs: dict[str, Tensor]
    values: Readback
    lens: np.ndarray
