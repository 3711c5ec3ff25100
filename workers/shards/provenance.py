"""Provenance of a part: how its rows were computed, as keys of the Parquet schema metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from parquetry.schemas import __version__
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import Shard
from parquetry.schemas.spec.columns import PROVENANCE_PREFIX
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint

#: taken over from what the engine says of itself
ENGINE_KEYS = (
    *("backend", "attention", "dtype", "why_dtype", "quantization", "int8_weights"),
    *("tensor_parallel", "why_not_tensor_parallel", "why_not_packed", "runs_without"),
    *("equal_lengths_only", "one_row_at_a_time", "why_eager", "sdpa_differs"),
)
_PACKAGES = ("numpy", "pyarrow", "tokenizers")


def provenance(
    record: JobRecord, shard: Shard, fence: int, checkpoint: Checkpoint, engine: Mapping[str, str]
) -> dict[str, str]:
    """Keys (without their prefix) and values; the same for every attempt of a shard but for `fence`."""
    spec = record.spec
    return {
        "job": record.job,
        "shard": str(shard.index),
        "fence": str(fence),
        "task": spec.task,
        "model": spec.model.id,
        "revision": checkpoint.revision or spec.model.revision or "",
        "weights": checkpoint.weights_fingerprint,
        **_adapter_facts(spec.model),
        "quantization": spec.model.quantization,
        **{key: engine[key] for key in ENGINE_KEYS if key in engine},
        "template_sha256": _template_digest(spec, checkpoint),
        "sampling": _json(spec.generation.model_dump(mode="json")) if spec.task == "generate" else "",
        "versions": _json(_versions(engine)),
        "input": _json(_inputs(shard)),
    }


def _adapter_facts(model: ModelSpec) -> dict[str, str]:
    """Folder and content of the merged adapter, or of every one that rows choose from, as JSON by name."""
    if model.adapters is None:
        digest = Adapter.resolve(model.adapter).weights_fingerprint if model.adapter else ""
        return {"adapter": model.adapter or "", "adapter_weights": digest}
    digests = {name: Adapter.resolve(folder).weights_fingerprint for name, folder in model.adapters.items()}
    return {"adapter": _json(model.adapters), "adapter_weights": _json(digests)}


def as_metadata(values: Mapping[str, object]) -> dict[str, str]:
    """The values as text, their keys with our prefix, which keeps them apart from the user's own metadata."""
    return {f"{PROVENANCE_PREFIX}{key}": str(value) for key, value in values.items()}


def from_metadata(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """Our keys of Parquet metadata, without their prefix."""
    prefix = PROVENANCE_PREFIX.encode()
    ours = {key: value for key, value in (metadata or {}).items() if key.startswith(prefix)}
    return {key[len(prefix) :].decode(): value.decode("utf-8", "replace") for key, value in ours.items()}


def _template_digest(spec: JobSpec, checkpoint: Checkpoint) -> str:
    """Digest of the prompt section and the chat template: all that shapes a prompt besides the row."""
    if spec.task != "generate":
        return ""
    chat = checkpoint.chat_template_for(has_tools=spec.prompt.tools is not None)
    text = _json([spec.prompt.model_dump(mode="json"), chat if spec.prompt.chat is not False else None])
    return hashlib.sha256(text.encode()).hexdigest()


def _inputs(shard: Shard) -> list[dict[str, object]]:
    return [
        {"path": s.file.path, "etag": s.file.etag, "size": s.file.size, "rows": [s.start, s.stop]} for s in shard.slices
    ]


def _versions(engine: Mapping[str, str]) -> dict[str, str]:
    found = {"parquetry": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    known = (
        "torch",
        "transformers",
        "onnxruntime",
        "optimum",
        "vllm",
        "bitsandbytes",
        "torchao",
        "flash_attn",
        "pillow",
    )
    return found | {name: engine[name] for name in known if name in engine}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
