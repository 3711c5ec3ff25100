"""Folders of models as they were published before tokenizer.json: sentencepiece files, and no more."""

from __future__ import annotations

import json
from pathlib import Path

from transformers.convert_slow_tokenizer import import_protobuf

WORDS = ("hello", "world", "the", "fox", "jumps")
UNKNOWN, CONTROL, NORMAL = 2, 3, 1


def write_sentencepiece(file: Path, *, special: tuple[str, ...] = ("<unk>", "<s>", "</s>"), words=WORDS) -> list[str]:
    """A unigram model of whole words and letters; its pieces in order."""
    proto = import_protobuf().ModelProto()
    letters = "abcdefghijklmnopqrstuvwxyz▁"
    pieces = [*special, *(f"▁{word}" for word in words), *letters]
    for number, piece in enumerate(pieces):
        kind = UNKNOWN if piece == "<unk>" else CONTROL if piece in special else NORMAL
        score = 0.0 if piece in special else -2.0 - number / 10 if len(piece) > 1 else -8.0
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = 1
    proto.trainer_spec.unk_id = special.index("<unk>")
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = True
    file.write_bytes(proto.SerializeToString())
    return pieces


def write_marian_files(folder: Path, *, source=("hello", "world"), target=("hallo", "welt")) -> dict[str, int]:
    """source.spm, target.spm, vocab.json of both and their settings; the vocabulary."""
    special = ("</s>", "<unk>")
    pieces = write_sentencepiece(folder / "source.spm", special=special, words=source)
    more = write_sentencepiece(folder / "target.spm", special=special, words=target)
    # no file of theirs has the order of the other
    names = [*special, *sorted({*pieces, *more} - set(special), reverse=True), ">>deu<<", "<pad>"]
    vocab = {name: number for number, name in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    settings = {"source_lang": "eng", "target_lang": "deu", "tokenizer_class": "MarianTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return vocab
