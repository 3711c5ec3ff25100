"""Reads weights through a transformers class: under their own names, none left at random."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.score_modules import logit_score, pooled_score
from parquetry.workers.checkpoint.tensor_headers import read_headers, wrapper_prefix
from parquetry.workers.loading.logit_head import put_logit_head
from parquetry.workers.loading.quantization.four_bit_quantizer import config_of
from parquetry.workers.loading.quantization.four_bit_scheme import four_bit_scheme
from parquetry.workers.loading.weight_check import require_own_weights

log = logging.getLogger(__name__)


def read_model(auto_class: Any, checkpoint: Checkpoint, *, task: Task, **options: Any) -> PreTrainedModel:
    """The model of the checkpoint's safetensors files, in eval mode; `options` go to from_pretrained.

    Prefixes that torch.compile and training wrappers put before every name are taken off. Raises UnusableModelError
    when the answers of `task` would depend on weights that are not in the files.
    """
    headers = read_headers(checkpoint.weight_files)
    if prefix := wrapper_prefix(headers):
        log.info("the weights of %s were saved with the prefix %s, which is taken off", checkpoint.id, prefix)
        options["key_mapping"] = {f"^{re.escape(prefix)}": ""}
    options["config"] = config = _config(checkpoint, options)
    if (scheme := four_bit_scheme(checkpoint.config, headers)) is not None:
        use_own_layers(config, config_of(scheme))
    reads_logits = logit_score(checkpoint, task)
    if reads_logits is not None:
        config.num_labels = 1
    model, report = auto_class.from_pretrained(
        checkpoint.folder, use_safetensors=True, output_loading_info=True, **options
    )
    if reads_logits is not None:
        put_logit_head(model, report, checkpoint, reads_logits)
    # a model whose vectors are scored needs what an embedder needs
    of_vectors = task == "embed" or pooled_score(checkpoint, task) is not None
    require_own_weights(model, report, name=checkpoint.id, task="embed" if of_vectors else task)
    return model.eval()


def _config(checkpoint: Checkpoint, options: Mapping[str, Any]) -> PreTrainedConfig:
    """The checkpoint's, without a padding id behind the end of the table, which no model can be made with."""
    known = {key: options[key] for key in ("trust_remote_code", "local_files_only") if key in options}
    config = AutoConfig.from_pretrained(checkpoint.folder, **known)
    text = config.get_text_config()
    pad_id, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if pad_id is not None and size is not None and pad_id >= size:
        text.pad_token_id = None
    return config


def use_own_layers(config: PreTrainedConfig, section: dict[str, Any]) -> None:
    """Have transformers read the checkpoint's quantized weights by `section` in place of what its files say."""
    if hasattr(config.get_text_config(), "quantization_config"):
        del config.get_text_config().quantization_config
    config.quantization_config = section
