"""Our sides of the encoder benchmark: each takes rows of token ids and gives logits, or vectors, of every row."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from encoder_files import write_tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx.export import export
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.ort_padded import OrtOptions, OrtPaddedEncoder
from parquetry.workers.encoding.onnx.providers import PROVIDERS
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.encoding.queued import QueuedEncoder
from parquetry.workers.encoding.torch_packed import EncodeTask, PackedEncoder
from parquetry.workers.encoding.torch_padded import TorchEncoder
from parquetry.workers.engine import Engine
from parquetry.workers.request import EncodeRequest

#: rows of token ids to the values of each row
Side = Callable[[list[np.ndarray]], Sequence[np.ndarray]]
#: hidden size, layers, heads, inner size
SHAPES = {
    "tiny": (64, 2, 4, 128),
    "minilm": (384, 6, 12, 1536),
    "bert-base": (768, 12, 12, 3072),
    "bert-large": (1024, 24, 16, 4096),
}
NUM_LABELS = 2
MAX_TOKENS = 512
#: rows handed over at once, as shard runners do, and rows that wait when their turn comes
_ADDED_ROWS, _WAITING_ROWS = 2048, 4096
_NOTHING = np.empty(0, np.float32)


def write_model(shape: str, folder: Path) -> None:
    """A classifier with random weights of a real shape; a regression, so that every side gives plain logits."""
    hidden, layers, heads, inner = SHAPES[shape]
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
        num_labels=NUM_LABELS, problem_type="regression",
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    write_tokenizer(folder)
    # the same folder, for sentence-transformers: a mean of length one
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))


def flops(shape: str, rows: list[np.ndarray]) -> float:
    """Multiplications and additions of one pass over the rows, without padding."""
    hidden, layers, _, inner = SHAPES[shape]
    per_token = 2 * layers * (4 * hidden**2 + 2 * hidden * inner)
    return sum(per_token * len(row) + 4 * layers * hidden * len(row) ** 2 for row in rows)


class Sides:
    """Makes sides over one model on one device."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        self.folder, self.device, self.dtype = folder, device, dtype
        #: name -> what makes the side, set by whoever chooses them
        self.makers: dict[str, Callable[[], Side]] = {}
        #: the same, for sides whose turn comes after all else
        self.last: dict[str, Callable[[], Side]] = {}
        self._made: dict[str, Side] = {}

    def on_cpu(self) -> Sides:
        """The same model on the CPU in float32."""
        return Sides(self.folder, "cpu", torch.float32)

    def made(self, name: str) -> Side:
        """The side of that name, made once."""
        if name not in self._made:
            self._made[name] = {**self.makers, **self.last}[name]()
            # as the engine's server does: a collection that looks through all libraries takes a tenth of a second
            gc.collect()
            gc.freeze()
        return self._made[name]

    def load(self) -> BertForSequenceClassification:
        model = AutoModelForSequenceClassification.from_pretrained(self.folder, dtype=self.dtype)
        return model.eval().to(self.device)

    def arrival(self, batch_size: int) -> Side:
        """Padded batches in the order of arrival: what transformers' pipeline runs."""
        model = self.load()

        def side(rows: list[np.ndarray]) -> np.ndarray:
            batches = (rows[at : at + batch_size] for at in range(0, len(rows), batch_size))
            with torch.inference_mode():
                outs = [_padded_logits(model, batch, self.device) for batch in batches]
            return torch.cat(outs).float().cpu().numpy()

        return side

    def sorted(self) -> Side:
        """Our padded engine, sorted by length."""
        budget = 4096 if self.device == "cpu" else 32768
        head = lambda output, _mask: output.logits.float()  # noqa: E731
        return drained(TorchEncoder(self.load(), head, pad_id=0, max_tokens=MAX_TOKENS, token_budget=budget))

    def packed(self) -> Side:
        """Our packed engine."""
        return drained(PackedEncoder(self.load(), EncodeTask(task="classify")))

    def embeddings(self) -> Side:
        """Our packed engine for vectors, which sentence-transformers is compared with."""
        return drained(PackedEncoder(self.load().bert, EncodeTask(task="embed")))

    def onnx_padded(self, quantization: str = "none") -> Side:
        """ONNX Runtime, padded and sorted by length."""
        return drained(self.onnx_padded_engine(quantization))

    def onnx_stock(self) -> Side:
        """ONNX Runtime, padded and sorted, over what torch's exporter makes of the model as it comes."""
        return drained(self.onnx_padded_engine(attention="plain"))

    def onnx_padded_engine(self, quantization: str = "none", attention: str = "fused") -> OrtPaddedEncoder:
        """The engine of `onnx_padded`."""
        on_cpu = self.device == "cpu"
        dtype = "float32" if on_cpu else "float16"
        spec = ExportSpec(task="classify", dtype=dtype, quantization=quantization, attention=attention)
        path = export(self.folder, self.folder / f"onnx-{dtype}-{quantization}-{attention}", spec)
        provider = PROVIDERS["cpu" if on_cpu else "cuda"]
        return OrtPaddedEncoder(path, self._options(provider, "int8" if quantization == "int8" else dtype))

    def onnx_packed(self) -> Side:
        """ONNX Runtime on CUDA over packed batches."""
        return drained(self.onnx_packed_engine())

    def onnx_packed_engine(self) -> QueuedEncoder:
        """The engine of `onnx_packed`."""
        from parquetry.workers.encoding.onnx.ort_packed import OrtPackedEncoder

        spec = ExportSpec(task="classify", form="packed", dtype="float16")
        path = export(self.folder, self.folder / "onnx-packed", spec)
        return OrtPackedEncoder(path, self._options(PROVIDERS["cuda"], "float16"), self.device)

    def _options(self, provider: str, precision: str) -> OrtOptions:
        limits = RowLimits(vocab_size=30522, max_tokens=MAX_TOKENS, type_vocab_size=2)
        return OrtOptions(limits=limits, vectors=Vectors(task="classify"), provider=provider, precision=precision)


def drained(engine: Engine) -> Side:
    """A side that feeds an engine while it works, as its server does, and takes its results."""

    def side(rows: list[np.ndarray]) -> list[np.ndarray]:
        out = [_NOTHING] * len(rows)

        def take() -> None:
            for result in engine.step():
                assert result.error is None, result.error
                out[result.id] = result.values

        for start in range(0, len(rows), _ADDED_ROWS):
            part = enumerate(rows[start : start + _ADDED_ROWS], start)
            engine.add([EncodeRequest(id=index, token_ids=row) for index, row in part])
            while engine.num_unfinished > _WAITING_ROWS:
                take()
        while engine.num_unfinished:
            take()
        return out

    return side


def _padded_logits(model: BertForSequenceClassification, rows: list[np.ndarray], device: str) -> torch.Tensor:
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    mask = (np.arange(longest) < np.array([len(row) for row in rows])[:, None]).astype(np.int64)
    ids, mask = (torch.from_numpy(x).to(device) for x in (ids, mask))
    return model(input_ids=ids, attention_mask=mask).logits
