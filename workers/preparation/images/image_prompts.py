"""Prompts with images: text as in other prompts, images as encoded files, which the engine decodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.schemas.manifest import JobRecord
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.cells import or_error
from parquetry.workers.preparation.images.image_column import Reference, read_images, reference
from parquetry.workers.preparation.images.image_reader import ImageReader
from parquetry.workers.preparation.prompts import PromptPreparation
from parquetry.workers.preparation.rendering.answers import Rendered
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.request import Request, VisionRequest

#: a prompt's text, and its images by reference
Named = tuple[Rendered, tuple[Reference, ...]]
#: images read at once; they wait for disks and networks, not for the processor
_READERS = 8


@dataclass(frozen=True, eq=False)
class ImagePrompt(Tokens):
    """A prompt, the tokens of its text alone, and its images: references first, then the bytes read from them."""

    text: str = ""
    references: tuple[Reference, ...] = ()
    images: tuple[bytes, ...] = ()

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.images))


class ImagePreparation(PromptPreparation):
    """Prompts with the images of a column, or with those that the parts of chat messages name."""

    # images may be large, and all of these are held at once
    rows_at_once = 16

    def __init__(self, record: JobRecord, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
        super().__init__(record, checkpoint, tokenizer)
        self._reader = ImageReader.of(record)
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="images")

    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        """ImagePrompts with references to images that have not been read."""
        images = self._images(batch)
        texts = self._texts(self._rows(batch), [0 if isinstance(of, RowError) else len(of) for of in images])
        prompts = [or_error(self._prompt_of, *row) for row in zip(texts, images, strict=True)]
        texts = [prompt if isinstance(prompt, RowError) else prompt[0] for prompt in prompts]
        encoded = self._encoded(texts)
        pairs = zip(prompts, encoded, strict=True)
        return self._for_adapters(batch, [_named(prompt, tokens) for prompt, tokens in pairs])

    def _images(self, batch: pa.RecordBatch) -> Sequence[list[Reference] | RowError]:
        """The image references in each row's image column; none where the messages hold them."""
        column = str(self._prompt.image)
        return [[]] * batch.num_rows if column == self._prompt.messages else read_images(column, batch[column])

    def _prompt_of(self, text: Rendered | RowError, images: list[Reference] | RowError) -> Named:
        """The text of the prompt, and a reference for each of its image placeholders. Raises RowError."""
        if isinstance(text, RowError):
            raise text
        if isinstance(images, RowError):
            raise images
        if self._template is not None:
            return text, tuple(images)
        return text, tuple(_fill(f"{self._prompt.messages}: image", text.images, images))

    def complete(self, prepared: list[Tokens | RowError]) -> list[Tokens | RowError]:
        """The prompts with the bytes of their images, which are read in parallel."""
        asked = [prompt.references for prompt in prepared if isinstance(prompt, ImagePrompt)]
        found = iter(list(self._pool.map(self._reader.read, asked)))
        return [_with_images(prompt, next(found)) if isinstance(prompt, ImagePrompt) else prompt for prompt in prepared]

    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        assert isinstance(tokens, ImagePrompt)
        return VisionRequest(
            id=id,
            text=tokens.text,
            images=tokens.images,
            is_plain=self._chat is None,
            row=row,
            sample=sample,
            adapter=tokens.adapter,
            params=self._params,
        )


def _named(prompt: Named | RowError, tokens: Tokens | RowError) -> ImagePrompt | RowError:
    if isinstance(prompt, RowError):
        return prompt
    if isinstance(tokens, RowError):
        return tokens
    return ImagePrompt(tokens.ids, text=prompt[0].text, references=prompt[1])


def _fill(name: str, named: Sequence[Any], images: Sequence[Reference]) -> Iterable[Reference]:
    """Each placeholder's own reference, or the next of the row's column. Raises RowError if the counts differ."""
    own = iter(images)
    num_open = sum(path is None for path in named)
    if num_open != len(images):
        reason = f"its messages have placeholders for {num_open} of its images, but it has {len(images)}"
        raise RowError(reason=f"the row does not fit together: {reason}")
    return [next(own) if path is None else reference(name, path) for path in named]


def _with_images(prompt: ImagePrompt, images: tuple[bytes, ...] | RowError) -> ImagePrompt | RowError:
    return images if isinstance(images, RowError) else replace(prompt, images=images, references=())
