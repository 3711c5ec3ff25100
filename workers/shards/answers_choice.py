"""Which answers a job writes."""

from __future__ import annotations

from collections.abc import Mapping

from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.replies.splitter import Splitter
from parquetry.workers.shards.answers import (
    Answers,
    ClassificationAnswers,
    EmbeddingAnswers,
    EntityAnswers,
    RequestEmbeddings,
    ScoreAnswers,
)
from parquetry.workers.shards.generation_answers import GenerationAnswers


def choose_answers(spec: JobSpec, checkpoint: Checkpoint, tokenizer: Tokenizer, engine: Mapping[str, str]) -> Answers:
    """The answers of the spec's task; `engine` is what `Engine.describe` returned."""
    if spec.task == "generate":
        splitter = Splitter.of(spec, checkpoint, tokenizer) if spec.splits_replies else None
        return GenerationAnswers(spec, tokenizer, splitter)
    if spec.task == "embed":
        of_vectors = RequestEmbeddings if spec.reads_requests else EmbeddingAnswers
        return of_vectors(spec, embedding_dim=int(engine["embedding_dim"]))
    if spec.task == "score":
        return ScoreAnswers(spec)
    if checkpoint.is_token_classifier:
        return EntityAnswers(spec, checkpoint, tokenizer, int(engine["num_labels"]))
    return ClassificationAnswers(spec, checkpoint, int(engine["num_labels"]))
