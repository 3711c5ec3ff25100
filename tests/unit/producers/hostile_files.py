"""Files made to hang, fill or kill whoever reads them, each given to a submission; prints what came of it.

`python -m tests.unit.producers.hostile_files FOLDER`: one JSON object a line.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.producers.submission import prepare
from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.spec.job import JobSpec
from parquetry.spec_file import load_spec
from tests.unit.workers.tiny_model import make_model

DEEP = "[" * 200_000 + "]" * 200_000
WIDE = "[" + "[]," * 5_000_000 + "[]]"
#: what may not be called while a file is read: nothing of it is to be looked up or fetched
NETWORK = {"socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}


def text(name: str, content: str) -> Callable[[Path], None]:
    """A file of the model's folder that holds this."""
    return lambda folder: (folder / name).write_text(content) and None


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    """One change after the other."""
    return lambda folder: [change(folder) for change in changes] and None


def config(**fields: Any) -> Callable[[Path], None]:
    """A config.json with these in it."""
    return lambda folder: make_model(folder, **fields) and None


def weights(header: Any, length: int | None = None, data: bytes = b"") -> Callable[[Path], None]:
    """A safetensors file with this header, which claims this length."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(content) if length is None else length)
    return lambda folder: (folder / "model.safetensors").write_bytes(size + content + data) and None


def tensor(shape: Any, offsets: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """The model's tokenizer.json, changed."""

    def write(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return write


def split(pattern: str) -> Callable[[Path], None]:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return tokenizer(lambda content: content.update(pre_tokenizer=part))


MODELS: dict[str, Callable[[Path], None]] = {
    "config nested deeply": text("config.json", DEEP),
    "config of many values": text("config.json", WIDE),
    "config that is a list": text("config.json", "[]"),
    "config that is no text": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00") and None,
    "sizes that are text": config(hidden_size="wide"),
    "sizes without end": config(vocab_size=10**30, hidden_size=10**30),
    "layers without end": config(num_hidden_layers=10**12),
    "a negative size": config(hidden_size=-5),
    "architectures that are a number": config(architectures=5),
    "labels that are no numbers": config(id2label={"x": "y"}),
    "a part that is no object": config(text_config=[1]),
    "tokenizer nested deeply": text("tokenizer.json", DEEP),
    "tokenizer of many values": text("tokenizer.json", WIDE),
    "tokenizer that is none": text("tokenizer.json", "{}"),
    "tokenizer of an unknown kind": tokenizer(lambda content: content["model"].update(type="Python")),
    "tokens that are no text": tokenizer(lambda content: content["model"].update(vocab={"a": "b"})),
    "a charsmap that is none": tokenizer(
        lambda content: content.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA/////w=="})
    ),
    "a pattern that does not end": split("("),
    "a pattern of many repetitions": split("((a{1000}){1000}){1000}"),
    "a long pattern": split("a|" * 100_000),
    "tokenizer settings nested deeply": text("tokenizer_config.json", DEEP),
    "special tokens nested deeply": both(text("special_tokens_map.json", DEEP), text("chat_template.jinja", "x")),
    "an index nested deeply": text("model.safetensors.index.json", DEEP),
    "an index without names": text("model.safetensors.index.json", '{"weight_map": {"a": 5}}'),
    "an index that leads out": text("model.safetensors.index.json", '{"weight_map": {"a": "../in.parquet"}}'),
    "a chat template nested deeply": text("chat_template.jinja", "{% if 1 %}" * 3000 + "{% endif %}" * 3000),
    "a header of a huge length": weights(b"{}", length=2**63),
    "a header longer than its file": weights(b"{}", length=50 << 20),
    "a header nested deeply": weights(DEEP.encode()),
    "a header of many values": weights(WIDE.encode()),
    "a header that is a list": weights([]),
    "tensors without a type": weights({"a": {"shape": [1]}}),
    "tensors without a shape": weights({"a": tensor("x", [0, 4])}, data=b"0000"),
    "tensors of a negative shape": weights({"a": tensor([-1], [0, 4])}, data=b"0000"),
    "tensors behind the end": weights({"a": tensor([1], [0, 4])}),
    "tensors over each other": weights({"a": tensor([1], [0, 4]), "b": tensor([1], [2, 6])}, data=b"000000"),
    "tensors larger than their bytes": weights({"a": tensor([1 << 40], [0, 4])}, data=b"0000"),
}
SPECS = {
    "nested.json": DEEP,
    "wide.json": '{"a": ' + WIDE + "}",
    "nested.yaml": DEEP,
    "mapped.yaml": "".join(f"{' ' * depth}a:\n" for depth in range(2000)),
    "aliases.yaml": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "itself.yaml": "a: &a [*a]\n",
    "many.yaml": "a: [" + "x," * 200_000 + "]\n",
    "large.yaml": "a: |\n" + " x\n" * 4_000_000,
    "tag.yaml": "a: !!python/object/apply:os.system ['true']\n",
    "numbers.json": '{"priority": ' + "9" * 100_000 + "}",
}


def outcome(attempt: Callable[[], object]) -> dict[str, Any]:
    """What a submission ended with, and the processor seconds it took."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        attempt()
        ended: dict[str, Any] = {"exit": 0, "said": "nothing"}
    except ParquetryError as error:
        ended = {"exit": int(error.exit_code), "said": str(error)}
    # what is no error of ours would end a command with a stack
    except BaseException as error:  # noqa: BLE001
        ended = {"exit": -1, "said": f"{type(error).__name__}: {error}"[:300]}
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {**ended, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def submit_with(folder: Path, change: Callable[[Path], None]) -> dict[str, Any]:
    """Try a job of a sound table and a model that was changed."""
    make_model(folder)
    change(folder)
    spec = {
        "task": "generate",
        "input": {"path": str(folder.parent / "in.parquet")},
        "output": {"path": str(folder.parent / "out")},
        "model": {"id": str(folder)},
        "prompt": {"template": "{{ text }}"},
        "generation": {"max_new_tokens": 4},
    }
    return outcome(lambda: prepare(JobSpec.parse(spec)))


def main(folder: Path) -> None:
    """Every case, one after the other."""

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in NETWORK:
            raise RuntimeError(f"{event} of {arguments}")

    sys.addaudithook(refuse)
    pq.write_table(pa.table({"text": ["a b"]}), folder / "in.parquet")
    results = {name: submit_with(folder / f"model-{number}", MODELS[name]) for number, name in enumerate(MODELS)}
    for name, content in SPECS.items():
        (folder / name).write_text(content)
        results[name] = outcome(lambda name=name: load_spec(folder / name))
    print(json.dumps({"results": results, "peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """The most memory that this process has had; getrusage counts that of its parent, until exec, as well."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


if __name__ == "__main__":
    main(Path(sys.argv[1]))
