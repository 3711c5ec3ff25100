"""Generation from prompts with images: vLLM runs the model's processor itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from parquetry.schemas.errors import RowError
from parquetry.schemas.settings import settings
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.request import GenerationRequest, VisionRequest
from parquetry.workers.vision.decoding import decode_all
from parquetry.workers.vision.processor import RowProcessor, load_processor
from parquetry.workers.vllm.conversation import Asked
from parquetry.workers.vllm.generation import Generation, PromptLimits


class PictureGeneration(Generation):
    """As `Generation`, of texts with placeholders and encoded image files."""

    def __init__(self, checkpoint: Checkpoint, limits: PromptLimits, adapters: Mapping[str, Adapter]) -> None:
        super().__init__(checkpoint.eos_ids, limits, adapters)
        processor = load_processor(checkpoint)
        self._processor = RowProcessor(processor, torch.float32, settings().image_max_pixels)

    def ask(self, request: GenerationRequest) -> Asked:
        assert isinstance(request, VisionRequest)
        asked = super().ask(request)
        begins = self._processor.has_beginning(request.text, is_plain=request.is_plain)
        return Asked(asked.prompt, asked.params, asked.lora, {"add_special_tokens": False} if begins else {})

    def check_prompt(self, request: GenerationRequest) -> None:
        """Its tokens are made inside vLLM."""

    def prompt(self, request: GenerationRequest) -> Any:
        """Raises ValueError for images that cannot be read, and a text whose placeholders are not theirs."""
        assert isinstance(request, VisionRequest)
        try:
            pictures = decode_all(request.images, max_pixels=settings().image_max_pixels)
            text = self._processor.with_placeholders(request.text, len(pictures), request.is_plain)
        except RowError as error:
            raise ValueError(str(error)) from None
        return {"prompt": text, "multi_modal_data": {"image": pictures} if pictures else {}}
