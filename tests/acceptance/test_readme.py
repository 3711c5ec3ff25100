"""The README's own commands, in its own order, in one folder: each of them works as it is written there."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from contextlib import ExitStack

import pytest

import parquetry
from tests.acceptance.commands import ROOT, Shell
from tests.acceptance.tables import assert_every_row_once, read_parts, write_file

NUM_ROWS = 30
#: what runs until it is stopped, with what a test adds: two suites may run on one machine
SERVERS = {"worker": (), "dashboard": ("--port", "0")}
#: what `doctor` says of a machine without a GPU
UNUSABLE = 3
#: has a test of its own, and takes as long as all the others
SLOW = "export"


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command that uses or sets up `parquetry`, as a shell splits it, in order."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(("parquetry ", "export "))]
    return [words for words in found if words[1] != SLOW]


@pytest.fixture
def readme(shell, encoder) -> Shell:
    """A folder with the job, the input and the models that the README speaks of."""
    from tests.models import write_causal_lm

    (job,) = blocks("yaml")
    (shell.folder / "job.yaml").write_text(job)
    (shell.folder / "data").mkdir()
    write_file(shell.folder / "data" / "a.parquet", NUM_ROWS)
    # room for max_new_tokens: 256, which is what the README has
    write_causal_lm(shell.folder / "models" / "Llama-3.1-8B-Instruct", window=1024)
    shutil.copytree(encoder, shell.folder / "models" / "minilm")
    return shell


class Reader:
    """Types one command after the other; `export` and the servers last for those behind them."""

    def __init__(self, shell: Shell, broker_url: str, servers: ExitStack) -> None:
        self.shell = shell
        self._broker_url = broker_url
        self._servers = servers
        #: what stands for the words in capitals
        self.words: dict[str, str] = {}

    def type(self, program: str, *words: str) -> None:
        if program == "export":
            self.shell = self.shell.with_broker(self._broker_url)
            return
        command = [self.words.get(word, word) for word in words]
        if command[0] in SERVERS:
            self._servers.enter_context(self.shell.start(*command, *SERVERS[command[0]]))
        else:
            self._run(command)

    def _run(self, command: list[str]) -> None:
        ended = self.shell.run(*command)
        allowed = (0, UNUSABLE) if command[0] == "doctor" else (0,)
        assert ended.returncode in allowed, f"parquetry {' '.join(command)}: {ended.stderr or ended.stdout}"
        if command[0] == "submit":
            self.words["JOB"] = ended.stdout.split()[-1]


def test_the_commands_in_order(readme, broker_url, monkeypatch):
    found = commands()
    assert {"plan", "run", "submit", "worker", "recover"} <= {command[1] for command in found}
    with ExitStack() as servers:
        reader = Reader(readme, broker_url, servers)
        for command in found:
            reader.type(*command)
    for folder in ("out", "warm"):
        assert_every_row_once(read_parts(readme.folder / folder), NUM_ROWS)
    _try_python(readme, monkeypatch)


def _try_python(readme: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job of the README's Python could be run behind all these."""
    (line,) = [line for line in blocks("python")[0].splitlines() if line.startswith("spec = ")]
    monkeypatch.chdir(readme.folder)
    made = parquetry.plan(ast.literal_eval(line.removeprefix("spec = ")))
    assert (made.rows, made.existing_output) == (NUM_ROWS, "")
