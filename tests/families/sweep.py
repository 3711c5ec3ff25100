"""Judges families one after the other, each in a process of its own, and notes each verdict at once."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import transformers

from tests.families.family import Family
from tests.families.verdict import Verdict, judge

#: a family whose verdict takes longer is undecided
LIMIT_S = 180.0


def sweep(families: Sequence[Family], notes: Path) -> Iterator[Verdict]:
    """A verdict for each family that `notes`, lines of JSON, has none of yet; it is added there."""
    known = {(verdict.kind, verdict.task) for verdict in read(notes)}
    notes.parent.mkdir(parents=True, exist_ok=True)
    for family in families:
        if (family.kind, family.task) in known:
            continue
        verdict = judge_apart(family)
        with notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(verdict.fields) + "\n")
        yield verdict


def read(notes: Path) -> list[Verdict]:
    """The verdicts that were noted; of several about one family the last."""
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
    verdicts = [Verdict(**json.loads(line)) for line in lines]
    return list({(verdict.kind, verdict.task): verdict for verdict in verdicts}.values())


def judge_apart(family: Family) -> Verdict:
    """`judge` in a process that may crash or hang."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix="family-"))
    # a fork: loading transformers anew would take longer than most verdicts
    process = multiprocessing.get_context("fork").Process(target=_judge, args=(family, folder, theirs))
    process.start()
    theirs.close()
    try:
        return _received(ours, family)
    finally:
        process.kill()
        process.join()
        shutil.rmtree(folder, ignore_errors=True)


def _received(connection: Connection, family: Family) -> Verdict:
    if not connection.poll(LIMIT_S):
        return Verdict(family.kind, family.task, "undecided", f"no answer within {LIMIT_S:g} s", LIMIT_S)
    try:
        return connection.recv()
    except EOFError:
        return Verdict(family.kind, family.task, "undecided", "its process died")


def _judge(family: Family, folder: Path, connection: Connection) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    connection.send(judge(family, folder))
