"""Which preparation serves a job."""

from __future__ import annotations

from parquetry.schemas.manifest import JobRecord
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.preparation import Preparation
from parquetry.workers.preparation.prompts import PromptPreparation, created
from parquetry.workers.preparation.requests.request_prompts import RequestPreparation
from parquetry.workers.preparation.requests.request_texts import RequestTexts
from parquetry.workers.preparation.texts import TextPreparation
from parquetry.workers.preparation.tokenization import Tokenizer


def choose_preparation(record: JobRecord, checkpoint: Checkpoint, tokenizer: Tokenizer) -> Preparation:
    """The preparation of the job's task. Raises BadInputErrors for a spec that does not fit the model."""
    if record.spec.reads_requests:
        of_requests = RequestPreparation if record.spec.task == "generate" else RequestTexts
        return of_requests(record, checkpoint, tokenizer)
    if record.spec.task != "generate":
        return TextPreparation(record.spec, checkpoint, tokenizer, created(record))
    if record.spec.prompt.image is None:
        return PromptPreparation(record, checkpoint, tokenizer)
    # the client of HTTP that fetches images is worth a tenth of a second at the start of every worker
    from parquetry.workers.preparation.images.image_prompts import ImagePreparation

    return ImagePreparation(record, checkpoint, tokenizer)
