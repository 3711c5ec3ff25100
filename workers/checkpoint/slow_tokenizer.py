"""Tokenizers published without tokenizer.json: converted once, since their own code tokenizes a text at a time."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from parquetry.schemas.errors import MissingTokenizerError
from parquetry.schemas.settings import settings
from parquetry.workers.checkpoint.conversion import converted
from parquetry.workers.packages import is_installed, require

#: raised whenever a converted tokenizer of the same files would come out differently
_VERSION = 1
#: Marian's, of which transformers has no other form; protobuf is enough to read them
MARIAN = "source.spm"
_SENTENCEPIECE = ("*.model",)
#: what tokenizers were kept in before tokenizer.json
_FILES = (*_SENTENCEPIECE, "*.spm", "*.tiktoken", "vocab.json", "vocab.txt", "merges.txt")
_SETTINGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def tokenizer_folder(folder: Path, model: str) -> Path:
    """The folder with the tokenizer.json of the model in `folder`, which may be one that is made of older files here.

    Raises MissingTokenizerError, MissingPackageError, and UnusableModelError when transformers cannot convert them.
    """
    if (folder / "tokenizer.json").is_file():
        return folder
    files = sorted({file for pattern in _FILES for file in folder.glob(pattern)})
    if not files or not is_installed("transformers"):
        raise MissingTokenizerError(model=model)
    _require_reader(folder)
    key = _content_key([*files, *(folder / name for name in _SETTINGS)])
    made = settings().state_dir / "tokenizers" / key
    return converted(folder, made, "parquetry.workers.loading.conversion.tokenizer_conversion", model=model)


def _require_reader(folder: Path) -> None:
    feature = "A tokenizer without tokenizer.json"
    if (folder / MARIAN).is_file():
        require("google.protobuf", feature=feature)
    elif any(file for pattern in _SENTENCEPIECE for file in folder.glob(pattern)):
        require("sentencepiece", feature=feature)
    elif any(folder.glob("*.tiktoken")):
        require("tiktoken", feature=feature)


def _content_key(files: list[Path]) -> str:
    digest = hashlib.sha256(f"{_VERSION} {version('transformers')}".encode())
    for file in files:
        if file.is_file():
            digest.update(f"\0{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:24]
