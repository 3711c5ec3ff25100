"""CrossEncoders of several modules, as sentence-transformers 5 saves them: logits of tokens, layers over a vector."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

YES, NO = 70, 80
#: a query and a document, and what stands around them
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}Judge: {{ m.content }} {% endif %}{% endfor %}"
    "<Q> {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }} "
    "<D> {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }} answer:"
)
_MESSAGE = {"message": {"method": "forward", "method_output_name": "logits", "format": "flat"}}
_TEXT = {"text": {"method": "forward", "method_output_name": "logits"}}
_HIDDEN = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_LOGIT_MODULES = (
    ("base.modules.transformer.Transformer", ""),
    ("cross_encoder.modules.logit_score.LogitScore", "1_LogitScore"),
)
_POOLED_MODULES = (
    ("base.modules.transformer.Transformer", ""),
    ("sentence_transformer.modules.pooling.Pooling", "1_Pooling"),
    ("base.modules.dense.Dense", "2_Dense"),
    ("sentence_transformer.modules.layer_norm.LayerNorm", "3_LayerNorm"),
    ("base.modules.dense.Dense", "4_Dense"),
)
#: numbers of a vector between the two dense layers
WIDTH = 24


def write_logit_reranker(
    causal_lm: Path, folder: Path, *, false_id: int | None = NO, template: str | None = None, prompt: str = ""
) -> Path:
    """The causal model with a LogitScore behind it, as Qwen3-Reranker is."""
    shutil.copytree(causal_lm, folder)
    if template is None:
        (folder / "chat_template.jinja").unlink()
    else:
        _write(folder / "chat_template.jinja", template)
    _transformer(folder, "text-generation", {**_TEXT, **(_MESSAGE if template else {})}, "causal_logits")
    said = {"true_token_id": YES, "false_token_id": false_id, "module_input_name": "causal_logits"}
    _write(folder / "1_LogitScore" / "config.json", said)
    prompts = {"prompts": {"judge": prompt}, "default_prompt_name": "judge"} if prompt else {}
    return _settings(folder, _LOGIT_MODULES, **prompts)


def write_pooled_reranker(embedder: Path, folder: Path, *, num_labels: int = 1, pooling: str = "cls") -> Path:
    """The model that gives vectors, and layers that give scores, as ettin's rerankers are."""
    shutil.copytree(embedder, folder)
    width = int(json.loads((folder / "config.json").read_text())["hidden_size"])
    _transformer(folder, "feature-extraction", _HIDDEN, "token_embeddings")
    said = {"embedding_dimension": width, "pooling_mode": pooling, "include_prompt": True}
    _write(folder / "1_Pooling" / "config.json", said)
    torch.manual_seed(3)
    _dense(folder / "2_Dense", width, WIDTH, "activation.GELU", "sentence_embedding")
    norm = torch.nn.LayerNorm(WIDTH)
    torch.nn.init.normal_(norm.weight)
    _layer(folder / "3_LayerNorm", norm, "norm", {"dimension": WIDTH})
    _dense(folder / "4_Dense", WIDTH, num_labels, "linear.Identity", "scores")
    return _settings(folder, _POOLED_MODULES)


def _transformer(folder: Path, task: str, modalities: dict[str, Any], output: str) -> None:
    said = {"transformer_task": task, "modality_config": modalities, "module_output_name": output}
    _write(folder / "sentence_bert_config.json", said)


def _dense(folder: Path, width: int, out: int, activation: str, output: str) -> None:
    said = {"in_features": width, "out_features": out, "bias": True, "module_input_name": "sentence_embedding"}
    said |= {"activation_function": f"torch.nn.modules.{activation}", "module_output_name": output}
    _layer(folder, torch.nn.Linear(width, out), "linear", said)


def _settings(folder: Path, modules: Sequence[tuple[str, str]], **more: Any) -> Path:
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.{kind}"}
        for number, (kind, path) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    said = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity", **more}
    _write(folder / "config_sentence_transformers.json", said)
    return folder


def _layer(folder: Path, layer: torch.nn.Module, name: str, config: dict[str, Any]) -> None:
    _write(folder / "config.json", config)
    save_file({f"{name}.{key}": value for key, value in layer.state_dict().items()}, folder / "model.safetensors")


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
