"""Reads weights through a transformers class: under their own names, and none of them made up."""

from __future__ import annotations

import logging
import re
from typing import Any

from transformers import PreTrainedModel

from parquetry.schemas.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.tensor_headers import read_headers, wrapper_prefix
from parquetry.workers.loading.weight_check import require_own_weights

log = logging.getLogger(__name__)


def read_model(auto_class: Any, checkpoint: Checkpoint, *, task: Task, **options: Any) -> PreTrainedModel:
    """The model of the checkpoint's safetensors files, in eval mode; `options` go to from_pretrained.

    Prefixes that torch.compile and training wrappers put before every name are taken off. Raises UnusableModelError
    when the answers of `task` would depend on weights that are not in the files.
    """
    if prefix := wrapper_prefix(read_headers(checkpoint.weight_files)):
        log.info("the weights of %s were saved with the prefix %s, which is taken off", checkpoint.id, prefix)
        options["key_mapping"] = {f"^{re.escape(prefix)}": ""}
    model, report = auto_class.from_pretrained(
        checkpoint.folder, use_safetensors=True, output_loading_info=True, **options
    )
    require_own_weights(model, report, name=checkpoint.id, task=task)
    return model.eval()
