"""A checkpoint's own processor: a prompt and its images in, the arrays its model takes out."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, ProcessorMixin

# by its own module: from the package, some versions give it only beside torchvision
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from parquetry.schemas.errors import RowError, UnusableModelError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.packages import require
from parquetry.workers.vision.collation import Row
from parquetry.workers.vision.decoding import decode_all

#: what every part is loaded with. Pillow resizes alike on every machine; torchvision, where it is there, a little apart
_OPTIONS = {"backend": "pil", "trust_remote_code": False, "local_files_only": True}


def load_processor(checkpoint: Checkpoint) -> ProcessorMixin:
    """Raises UnusableModelError when the folder does not say how images become input, or MissingPackageError."""
    try:
        return _load(checkpoint)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        if "torchvision" in str(error).lower():
            # some families' processors have no other way, and some did not in earlier versions of transformers
            require("torchvision", feature=f"the image processor of {checkpoint.id}")
        reason = str(error).strip().partition("\n")[0][:200]
        raise UnusableModelError(model=checkpoint.id, reason=f"its processor cannot be loaded ({reason})") from error


def _load(checkpoint: Checkpoint) -> ProcessorMixin:
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    kind = PROCESSOR_MAPPING.get(type(config), None)
    if kind is None or "video_processor" not in kind.get_attributes():
        return AutoProcessor.from_pretrained(checkpoint.folder, **_OPTIONS)
    # the part for videos needs torchvision, and no row has a video
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(checkpoint.folder, **_OPTIONS),
        "tokenizer": AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True),
    }
    return _without_videos(kind, parts, checkpoint)


def _without_videos(kind: type[ProcessorMixin], parts: dict[str, Any], checkpoint: Checkpoint) -> ProcessorMixin:
    options, _ = kind.get_processor_dict(checkpoint.folder, local_files_only=True)
    # the class insists on all of its parts
    lenient: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
    return lenient.from_args_and_dict([parts.get(name) for name in kind.get_attributes()], options)


@dataclass(frozen=True)
class RowProcessor:
    """Makes one row's arrays. May be used by several threads, each of which gets a processor of its own."""

    processor: ProcessorMixin
    #: floating-point arrays are handed on in the model's own
    dtype: torch.dtype
    #: of all images of a row
    max_pixels: int

    @cached_property
    def _local(self) -> threading.local:
        return threading.local()

    @property
    def _own(self) -> ProcessorMixin:
        # its tokenizer refuses to be used by two threads at once
        if not hasattr(self._local, "processor"):
            self._local.processor = copy.deepcopy(self.processor)
        return self._local.processor

    def __call__(self, text: str, images: Sequence[bytes], *, is_plain: bool) -> Row:
        """Arrays by the name of the model's argument, one row each. Raises RowError."""
        return self.arrays(text, decode_all(images, max_pixels=self.max_pixels), is_plain=is_plain)

    def arrays(self, text: str, pixels: Sequence[Image.Image], *, is_plain: bool) -> Row:
        """The same from decoded images."""
        text = self.with_placeholders(text, len(pixels), is_plain)
        options = {"add_special_tokens": False} if self.has_beginning(text, is_plain=is_plain) else {}
        try:
            return self.batch([text], [pixels], **options)
        # a processor is the model's program: what it cannot take is the fault of this row
        except Exception as error:  # noqa: BLE001
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise RowError(reason=f"the model's processor failed: {reason}") from None

    def has_beginning(self, text: str, *, is_plain: bool) -> bool:
        """Whether a chat template wrote the beginning itself; others leave it to the processor as plain prompts do."""
        bos = self._own.tokenizer.bos_token
        return bool(not is_plain and bos and text.startswith(bos))

    def batch(self, texts: Sequence[str], pixels: Sequence[Sequence[Image.Image]], **options: Any) -> Row:
        """What the processor itself makes of several rows, each with its images or all of them without."""
        images = [list(row) for row in pixels] if any(pixels) else None
        made = self._own(text=list(texts), images=images, return_tensors="pt", **options)
        # labels are for training
        return {
            name: self._cast(value) for name, value in made.items() if isinstance(value, Tensor) and name != "labels"
        }

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value

    @property
    def placeholder(self) -> str | None:
        """The token that stands for an image, None where the processor puts images in by itself."""
        token = getattr(self._own, "image_token", None)
        return None if token is None else str(token)

    def with_placeholders(self, text: str, num_images: int, is_plain: bool) -> str:
        """The text with one placeholder an image; a plain prompt that has none gets them in front."""
        self._require_no_other_media(text)
        token = self.placeholder
        if token is None:
            return text
        count = text.count(token)
        if is_plain and not count:
            return token * num_images + text
        if count != num_images:
            reason = f"{token} stands {count} times in the prompt, but the number of the row's images is {num_images}"
            raise RowError(reason=reason)
        return text

    def _require_no_other_media(self, text: str) -> None:
        for kind in ("video", "audio"):
            token = getattr(self._own, f"{kind}_token", None)
            if token is not None and str(token) in text:
                raise RowError(reason=f"the prompt has a placeholder for {kind} ({token}), and rows have none")
