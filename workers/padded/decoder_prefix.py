"""The first tokens of an encoder-decoder's decoder, which are given and not generated."""

from __future__ import annotations

from transformers import PreTrainedModel

from parquetry.schemas.errors import UnsupportedOptionError

#: what a checkpoint rules out because its decoder cannot do without, unlike its taste in sampling
STRUCTURAL_OPTIONS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")


def decoder_prefix(model: PreTrainedModel) -> list[int]:
    """The start token, and after it the first token that the checkpoint forces, such as a target language.

    A forced token is given and not generated: it is no part of the output, and no grammar has to allow it. Raises
    UnsupportedOptionError when the checkpoint names no start token.
    """
    own, config = model.generation_config, model.config
    start = _first(own.decoder_start_token_id, getattr(config, "decoder_start_token_id", None), own.bos_token_id)
    if start is None:
        reason = "it names no decoder_start_token_id, in config.json or generation_config.json"
        raise UnsupportedOptionError(option=f"model {config.name_or_path}", reason=reason)
    forced = _first(own.forced_bos_token_id, getattr(config, "forced_bos_token_id", None))
    return [int(token) for token in (start, forced) if token is not None]


def decoder_options(model: PreTrainedModel, prefix: list[int]) -> dict[str, object]:
    """What a GenerationConfig must keep of the model's own: how its decoder starts, and what it must never write.

    The forced token stands in the prefix and is not forced again; it is kept for the next engine on these weights.
    """
    found = {name: getattr(model.generation_config, name, None) for name in STRUCTURAL_OPTIONS}
    starts = dict(zip(("decoder_start_token_id", "forced_bos_token_id"), prefix, strict=False))
    return starts | {name: value for name, value in found.items() if value}


def _first(*values: int | list[int] | None) -> int | None:
    found = next((value for value in values if value is not None), None)
    return found[0] if isinstance(found, list) else found
