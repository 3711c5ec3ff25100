"""Two rows that every engine must answer before a job may use it: the shortest there is, and one of full length."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from parquetry.schemas.errors import ParquetryError, UnusableModelError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.tensor_headers import read_headers
from parquetry.workers.checks.prompts import TEXTS, beginning, check_prompts
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.failure import repeats, sentence
from parquetry.workers.request import EncodeRequest, GenerationRequest, Request, Result, SamplingParams, VisionRequest

log = logging.getLogger(__name__)
NUM_OUTPUTS = 2
#: pixels of the image in front of the rows of a job with images
IMAGE_SIZE = (48, 32)
#: tokens of the longest row where positions are computed, so that full length is like any other; and where they
#: are read from a table, at whose end a model may fail
LONGEST = {"cpu": 64, "cuda": 1024}
LONGEST_OF_TABLE = {"cpu": 1024, "cuda": 4096}
#: rows that a table of positions may have beyond the window, which begins behind the padding id in some families
_SPARE_ROWS = 16


def tried(engine: Engine, spec: EngineSpec) -> Engine:
    """`engine` again, once it has answered its trial rows.

    Raises UnusableModelError for one that fails on them, or answers none; what a device complains of is passed on.
    """
    checkpoint = Checkpoint.resolve(spec.model)
    rows = trial_rows(spec, checkpoint)
    results = [_answer(engine, spec, checkpoint, row) for row in rows]
    if all(result.error for result in results):
        lengths = " and ".join(str(len(row)) for row in rows)
        reason = f"it answers no row, tried with {lengths} tokens: {results[0].error}"
        raise UnusableModelError(model=checkpoint.id, reason=reason)
    return engine


def trial_rows(spec: EngineSpec, checkpoint: Checkpoint) -> list[np.ndarray]:
    """(num_tokens,) int32 each, as the tokenizer makes them of an empty text and of an ordinary one."""
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocab_size = tokenizer.get_vocab_size()
    shortest = beginning(tokenizer, "", vocab_size) or check_prompts(tokenizer, vocab_size, [1])[0]
    length = max(_full_length(spec, checkpoint), len(shortest))
    tokenizer.enable_truncation(length)
    longest = beginning(tokenizer, TEXTS[0], length) or check_prompts(None, vocab_size, [length])[0]
    return [np.asarray(ids, np.int32) for ids in (shortest, longest)]


def _full_length(spec: EngineSpec, checkpoint: Checkpoint) -> int:
    """Tokens of the longest row that may come, or as many as say the same of it."""
    device = spec.device.partition(":")[0]
    window = checkpoint.context_window
    may_end = not checkpoint.weight_files or has_position_table(checkpoint)
    bound = (LONGEST_OF_TABLE if may_end else LONGEST)[device]
    return min(window, bound) - (NUM_OUTPUTS if spec.task == "generate" else 0)


def has_position_table(checkpoint: Checkpoint) -> bool:
    """Whether some weight has a row for every position, as far as its file tells; an ONNX file does not."""
    window = checkpoint.context_window
    shapes = [header.shape for header in read_headers(checkpoint.weight_files).values()]
    return any(len(shape) == 2 and window <= shape[0] <= window + _SPARE_ROWS for shape in shapes)


def _answer(engine: Engine, spec: EngineSpec, checkpoint: Checkpoint, row: np.ndarray) -> Result:
    engine.add([_request(spec, row)])
    results: Sequence[Result] = []
    try:
        while engine.num_unfinished:
            results = [*results, *engine.step()]
    # a model's own code may raise anything; a fault of the device, which may pass, says nothing of the model
    except Exception as error:
        if isinstance(error, ParquetryError) or not repeats(error):
            raise
        reason = f"a row of {len(row)} tokens fails in it ({sentence(error)})"
        raise UnusableModelError(model=checkpoint.id, reason=reason) from error
    return results[0]


def _request(spec: EngineSpec, row: np.ndarray) -> Request:
    if spec.images:
        # how many tokens it has only the model knows
        params = SamplingParams(max_new_tokens=NUM_OUTPUTS)
        return VisionRequest(id=0, text=TEXTS[0][: len(row)], images=(_picture(),), is_plain=True, params=params)
    if spec.task == "generate":
        return GenerationRequest(id=0, prompt_ids=row, params=SamplingParams(max_new_tokens=NUM_OUTPUTS))
    return EncodeRequest(id=0, token_ids=row)


def _picture() -> bytes:
    """A small image, encoded."""
    from PIL import Image

    made = io.BytesIO()
    Image.new("RGB", IMAGE_SIZE, (200, 120, 40)).save(made, "PNG")
    return made.getvalue()
