"""What becomes of a model's own generation_config.json in a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from parquetry.schemas.spec.generation import GenerationSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint

#: what says how the model's format works, and so counts in every job
_ENDS = ("eos_token_id",)
#: the same of an encoder-decoder: how its decoder begins, and what it must never write
_DECODER = (
    *("decoder_start_token_id", "forced_bos_token_id"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
)
#: what transformers heeds only where do_sample is set
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
#: other keys that a job has by the same name
_OTHER = ("repetition_penalty", "max_new_tokens")
#: values that change nothing; a key that is not here changes nothing as null, false, 0 or 1
_NEUTRAL: dict[str, tuple[Any, ...]] = {"temperature": (None,), "top_k": (None, 0)}
#: what says nothing about tokens, or has something of the job in its place
_SILENT = (
    *("bos_token_id", "pad_token_id", "do_sample", "max_length"),
    *("use_cache", "cache_implementation", "transformers_version"),
)


def generation_defaults(checkpoint: Checkpoint, generation: GenerationSpec) -> list[str]:
    """Sentences on which defaults of the model a job takes over, which not, and why; none where it has no others."""
    is_sampled = bool(checkpoint.generation_config.get("do_sample"))
    own = _spoken({**({"temperature": 1.0} if is_sampled else {}), **checkpoint.generation_config})
    taken = [*_ENDS, *(_DECODER if checkpoint.is_encoder_decoder else ())]
    known = [*(_SAMPLING if is_sampled else ()), *_OTHER]
    differing = {key: own[key] for key in known if key in own and own[key] != getattr(generation, key)}
    unknown = {key: value for key, value in own.items() if key not in {*taken, *_SAMPLING, *_OTHER}}
    return [*_taken({key: own[key] for key in taken if key in own}), *_left(differing, generation), *_lacking(unknown)]


def _spoken(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that would change what is written."""
    return {key: value for key, value in config.items() if key not in _SILENT and key[0] != "_" and _says(key, value)}


def _says(key: str, value: Any) -> bool:
    if key.endswith("_token_id"):
        return value is not None
    return value not in _NEUTRAL.get(key, (None, False, 0, 1, "", [], {}))


def _taken(found: Mapping[str, Any]) -> Iterable[str]:
    if found:
        yield f"the job takes over from the model's generation_config.json: {_listed(found)}"


def _left(differing: Mapping[str, Any], generation: GenerationSpec) -> Iterable[str]:
    if differing:
        have = ", ".join(f"{key} {getattr(generation, key):g}" for key in differing)
        yield (
            f"the model's generation_config.json suggests {_listed(differing)}, and the job has {have}: outputs are "
            f"greedy and repeatable unless a job says otherwise; set generation.{next(iter(differing))} to follow it"
        )


def _lacking(unknown: Mapping[str, Any]) -> Iterable[str]:
    if unknown:
        yield f"the model's generation_config.json has {_listed(unknown)}, which has no key in a job and does not count"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value)) if len(value) < 5 else f"of {len(value)} entries"
    return str(value)
