"""The transformers side of converting a tokenizer.

`python -m parquetry.workers.loading.conversion.tokenizer_conversion FROM TO`

Marian's has no fast form in transformers: its pieces are those of a sentencepiece model, its ids those of a vocabulary
that two languages share.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from parquetry.workers.checkpoint.slow_tokenizer import MARIAN

_SPACE = "▁"
#: sentencepiece's numbers for a model of unigrams, and for a piece of ordinary text
_UNIGRAM, _NORMAL = 1, 1
#: how much worse than any other a piece is that only the other language has: it is taken where there is no other
_FOREIGN = 1000.0


def convert(source: Path, folder: Path) -> None:
    """Write `folder` with the tokenizer.json of the tokenizer in `source`. Raises SystemExit where there is none."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (source / MARIAN).is_file():
        fast = PreTrainedTokenizerFast(
            tokenizer_object=marian(source), unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
        )
    else:
        fast = AutoTokenizer.from_pretrained(source, local_files_only=True)
        if not fast.is_fast:
            raise SystemExit(f"{type(fast).__name__} has no fast form")
    fast.save_pretrained(folder)


def marian(source: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a Marian folder: source texts to ids, ids to target texts. Raises SystemExit for other kinds."""
    from transformers.convert_slow_tokenizer import import_protobuf

    vocab: dict[str, int] = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    proto: Any = import_protobuf().ModelProto.FromString((source / MARIAN).read_bytes())
    if proto.trainer_spec.model_type != _UNIGRAM or sorted(vocab.values()) != list(range(len(vocab))):
        raise SystemExit(f"{MARIAN} is no model of unigrams, or vocab.json has holes")
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    worst = min(scores.values()) - _FOREIGN
    pieces = [(piece, scores.get(piece, worst)) for piece in sorted(vocab, key=vocab.__getitem__)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, vocab["<unk>"], False))
    tokenizer.normalizer = _normalizer(proto.normalizer_spec.precompiled_charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme="always")
    end = ("</s>", vocab["</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[end])
    # codes of target languages, such as >>deu<<, which stand before a text
    codes = [piece for piece in vocab if piece.startswith(">>") and piece.endswith("<<")]
    tokenizer.add_tokens([AddedToken(code, normalized=False) for code in codes])
    return tokenizer


def _normalizer(charsmap: bytes) -> normalizers.Normalizer:
    # of spaces in a row sentencepiece keeps one, and none at the end
    spaces = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence([*([normalizers.Precompiled(charsmap)] if charsmap else []), *spaces])


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
