"""Checks, as a model loads, that a batch put together from single rows is the one that its processor makes."""

from __future__ import annotations

import logging

import torch
from PIL import Image

from parquetry.workers.vision.collation import Row, collate
from parquetry.workers.vision.processor import RowProcessor

log = logging.getLogger(__name__)
#: of two rows, unlike in length and shape
_TEXTS = ("a", "a b c d e f")
_SIZES = ((48, 40), (40, 200))


def has_known_layout(processor: RowProcessor) -> bool:
    """Whether rows may share a batch. False also when the processor cannot make the batch of the check."""
    tokenizer = processor.processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    texts = [f"{processor.placeholder or ''}{text}" for text in _TEXTS]
    pixels = [[Image.linear_gradient("L").resize(size).convert("RGB")] for size in _SIZES]
    try:
        rows = [processor.arrays(text, images, is_plain=True) for text, images in zip(texts, pixels, strict=True)]
        together = processor.batch(texts, pixels, padding=True, padding_side="left")
        return _are_equal(collate(rows, tokenizer.pad_token_id), together)
    # whatever goes wrong in the check, one row at a time is what remains
    except Exception as error:  # noqa: BLE001
        log.warning("the processor could not make the batch of the check: %s", error)
        return False


def _are_equal(one: Row, other: Row) -> bool:
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return False
    return all(torch.equal(one[name], other[name]) for name in one)
