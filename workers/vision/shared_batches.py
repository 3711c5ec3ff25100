"""Which rows of a vision-language model may share a batch: rows beside longer ones against each alone, at load.

Rows with images share no batch with rows without, so both kinds are tried. Images of one size are rare, and so are rows
of one length: where rows change one another, all of them run one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from parquetry.schemas.errors import RowError, UnusableModelError
from parquetry.workers.checks.prompts import TEXTS
from parquetry.workers.checks.sharing import Sharing, share_or_not
from parquetry.workers.vision.collation import Row
from parquetry.workers.vision.processor import RowProcessor
from parquetry.workers.vision.vision_generate import VisionGenerate

#: characters of the two texts, and pixels of the images before them; the shorter row has the smaller image
_LENGTHS = (20, 90)
_SIZES = ((40, 48), (72, 60))


def choose_rows(engine: VisionGenerate, processor: RowProcessor, pad_id: int) -> Sharing:
    """Whether rows may share a batch of the engine. Raises UnusableModelError when the model answers no image."""
    model = engine.model
    sharing = _try(engine, model, [_row(processor, at, has_image=True) for at in (0, 1)], pad_id)
    if sharing.rows != "any":
        return sharing
    try:
        return _try(engine, model, [_row(processor, at, has_image=False) for at in (0, 1)], pad_id)
    # some take no prompt without an image: such rows are error rows, each with its reason
    except (RowError, UnusableModelError):
        return Sharing()


def _row(processor: RowProcessor, at: int, *, has_image: bool) -> Row:
    text = TEXTS[0][: _LENGTHS[at]]
    pixels = [Image.linear_gradient("L").resize(_SIZES[at]).convert("RGB")] if has_image else []
    return processor.arrays(text, pixels, is_plain=True)


def _try(engine: VisionGenerate, model: PreTrainedModel, rows: Sequence[Row], pad_id: int) -> Sharing:
    """The rows are told apart by their lengths, which differ."""
    by_length = {row["input_ids"].shape[1]: row for row in rows}

    def compute(batch: Sequence[np.ndarray]) -> list[Tensor]:
        return engine.trial_of([by_length[len(ids)] for ids in batch])

    short, longest = (row["input_ids"][0].numpy().astype(np.int32) for row in rows)
    return share_or_not(model, compute, short, longest, pad_id)
