"""Models published without tokenizer.json: the same ids as their own tokenizer gives, converted once."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from parquetry.schemas.errors import MissingPackageError, MissingTokenizerError, UnusableModelError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.tokenization import Tokenizer
from tests.unit.workers.checkpoint.slow_tokenizers import write_marian_files, write_sentencepiece


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    settings.cache_clear()
    yield
    settings.cache_clear()


def bare(model: Path, folder: Path) -> Path:
    """A copy of the model's folder without its tokenizer."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    return folder


def load(folder: Path) -> Tokenizer:
    return Tokenizer.load(Checkpoint.resolve(ModelSpec(id=str(folder))).tokenizer_folder)


def ids(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    found = tokenizer.encode(texts, special_tokens=True, limit=50, truncate="error")
    return [tokens.ids.tolist() for tokens in found]


def test_marian_reads_one_language_and_writes_the_other(causal_lm: Path, tmp_path: Path) -> None:
    folder = bare(causal_lm, tmp_path / "model")
    vocab = write_marian_files(folder)
    tokenizer = load(folder)
    end = vocab["</s>"]
    hello, world = vocab["▁hello"], vocab["▁world"]
    assert ids(tokenizer, "hello world", ">>deu<< hello  world ", "") == [
        [hello, world, end],
        [vocab[">>deu<<"], hello, world, end],
        [end],
    ]
    # pieces of the other language are not taken where there are own ones, and what nobody has is unknown
    assert ids(tokenizer, "hallo", "é") == [
        [*(vocab[piece] for piece in "▁hallo"), end],
        [vocab["▁"], vocab["<unk>"], end],
    ]
    assert tokenizer.decode([[vocab["▁hallo"], vocab["▁welt"], end]]) == ["hallo welt"]
    assert tokenizer.vocab_size == len(vocab)


@pytest.mark.filterwarnings("ignore")
def test_marian_gives_the_ids_of_its_own_class(causal_lm: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from transformers import MarianTokenizer

    folder = bare(causal_lm, tmp_path / "model")
    write_marian_files(folder)
    texts = ["hello world", ">>deu<< hello  world ", "hallo welt", "a fox é jumps", "x  y", "hello, world"]
    own = MarianTokenizer.from_pretrained(folder)
    assert ids(load(folder), *texts) == [own(text).input_ids for text in texts]


def test_a_list_of_words_is_converted_once(classifier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import AutoTokenizer

    folder = bare(classifier, tmp_path / "model")
    own = AutoTokenizer.from_pretrained(classifier)
    words = sorted(own.get_vocab(), key=own.get_vocab().__getitem__)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    with caplog.at_level("INFO"):
        found = [ids(load(folder), "good film", "the Fox") for _ in range(2)]
    assert found == [[own(text).input_ids for text in ("good film", "the Fox")]] * 2
    assert caplog.text.count("this happens once") == 1
    assert not (folder / "tokenizer.json").exists()


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True, "add_eos_token": True}])
def test_sentencepiece_gives_what_transformers_gives(causal_lm: Path, tmp_path: Path, flags: dict) -> None:
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    import json

    from transformers import AutoTokenizer

    folder = bare(causal_lm, tmp_path / "model")
    write_sentencepiece(folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **flags}))
    own = AutoTokenizer.from_pretrained(folder)
    assert ids(load(folder), "hello fox", "q") == [own(text).input_ids for text in ("hello fox", "q")]


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_what_reads_sentencepiece_is_named(causal_lm: Path, tmp_path: Path) -> None:
    folder = bare(causal_lm, tmp_path / "model")
    write_sentencepiece(folder / "tokenizer.model")
    with pytest.raises(MissingPackageError, match=r"A tokenizer without tokenizer\.json .*sentencepiece"):
        load(folder)


def test_without_any_files_the_command_is_named(causal_lm: Path, tmp_path: Path) -> None:
    folder = bare(causal_lm, tmp_path / "model")
    with pytest.raises(MissingTokenizerError, match=r"from_pretrained\('.*model'\).save_pretrained"):
        load(folder)


def test_files_that_cannot_be_read_are_refused_in_a_sentence(causal_lm: Path, tmp_path: Path) -> None:
    folder = bare(causal_lm, tmp_path / "model")
    write_marian_files(folder)
    (folder / "vocab.json").write_text('{"</s>": 0, "<unk>": 7}', encoding="utf-8")
    with pytest.raises(UnusableModelError, match=r"transformers cannot read it .*vocab\.json has holes"):
        load(folder)
