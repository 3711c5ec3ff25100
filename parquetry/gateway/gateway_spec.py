"""The operator's file: who may send batches, to which models, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from parquetry.schemas.spec.batch_format import CHAT, COMPLETIONS, EMBEDDINGS, Url
from parquetry.schemas.spec.generation import GenerationSpec, PromptSpec
from parquetry.schemas.spec.job import EmbedSpec, ModelSpec, ShardsSpec
from parquetry.schemas.spec.section import Positive, Section, first_problem

#: what a request may take for granted with OpenAI: the temperature is 1, and an output ends where the model ends it
_GENERATION = {"temperature": 1.0, "max_new_tokens": 4096, "logprobs": True}
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
#: of a token, as `printf %s TOKEN | sha256sum` prints it
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ServedModel(Section):
    """A model, by the name that lines ask for, and the sections of the jobs on it."""

    model: ModelSpec
    endpoints: tuple[Url, ...] = Field(default=(CHAT, COMPLETIONS), strict=False)
    prompt: PromptSpec = PromptSpec()
    generation: dict[str, Any] = Field(default={})
    embed: EmbedSpec = EmbedSpec()
    shards: ShardsSpec = ShardsSpec()
    priority: int = Field(default=5, ge=0, le=9)

    def sections(self, url: Url) -> dict[str, Any]:
        """Those of a job that answers `url`."""
        common = {name: getattr(self, name).model_dump(exclude_defaults=True) for name in ("model", "shards")}
        if url == EMBEDDINGS:
            own: dict[str, Any] = {"task": "embed", "embed": self.embed.model_dump(exclude_defaults=True)}
        else:
            prompt = self.prompt.model_dump(exclude_defaults=True)
            own = {"task": "generate", "prompt": prompt, "generation": _GENERATION | self.generation}
        return {**common, **own, "priority": self.priority}


class Limits(Section):
    """What one user may have."""

    file_bytes: Positive = 200 << 20
    lines: Positive = 50_000
    files: Positive = 1000
    open_batches: Positive = 20


class GatewaySpec(Section):
    """The whole file."""

    #: folder or object store that holds files and batches
    root: str
    #: the digest of each user's token
    users: dict[Name, Digest] = Field(min_length=1)
    models: dict[str, ServedModel] = Field(min_length=1)
    limits: Limits = Limits()

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> GatewaySpec:
        """Validate plain data. Raises UnknownKeyError or InvalidValueError, naming the first key that is off."""
        try:
            spec = cls.model_validate(data)
            for served in spec.models.values():
                GenerationSpec.model_validate(_GENERATION | served.generation)
        except ValidationError as error:
            raise first_problem(error, cls) from None
        return spec
