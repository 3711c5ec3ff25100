"""docs/models.md, from what the sweep has noted."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tests.families.family import TASKS
from tests.families.verdict import WAYS, Verdict

_HEAD = """# Models

Written by `python -m tests.families --page` from benchmarks/results/families.jsonl, which `python -m tests.families`
makes: of every family of transformers {versions} a tiny model with random weights answers rows of 2 to 60 tokens at
once, on a CPU in float32, and its answers are those of transformers to each row alone.

| way | means |
|---|---|
| packed | our engine: no padding at all |
| padded | transformers' own forward pass, rows sorted by length |
| equal lengths only | padded, but rows of unequal length would change each other's answers |
| one row at a time | even rows of equal length would |
| refused | the job ends at once, with this reason |
| wrong | the answers differ; there should be none |
| undecided | there was nothing to compare with |

The engine decides that when it loads a model, by trying it, and not by this table: a checkpoint may differ from its
family. `parquetry plan`, the log and the parts' metadata say how a job runs, and why.
"""
_OLDEST = """The same on the oldest version that we support, from benchmarks/results/families-oldest.jsonl: {count}
verdicts, {ways}. These run otherwise there, or are told apart; families that it does not know are left out."""
_DISAGREE = "transformers' sdpa differs"
#: characters of a reason that plan shows
_MAX_REASON = 160
_TITLES = {"generate": "Generation", "classify": "Classification", "label tokens": "Token labels", "embed": "Embedding"}


def page(verdicts: Sequence[Verdict], oldest: Sequence[Verdict]) -> str:
    """The whole page: of the newest transformers, and where the oldest that we support differs."""
    sections = [_section(task, [verdict for verdict in verdicts if verdict.task == task]) for task in TASKS]
    return "\n".join([_HEAD.format(versions=_versions(verdicts)), *sections, _differences(verdicts, oldest)])


def _versions(verdicts: Sequence[Verdict]) -> str:
    return " and ".join(sorted({verdict.transformers for verdict in verdicts}))


def _differences(verdicts: Sequence[Verdict], oldest: Sequence[Verdict]) -> str:
    now = {(verdict.kind, verdict.task): verdict for verdict in verdicts}
    pairs = [(verdict, now.get((verdict.kind, verdict.task))) for verdict in oldest]
    others = [(old, new) for old, new in pairs if new and (old.way != new.way or _DISAGREE in old.reason)]
    lines = [f"## transformers {_versions(oldest)}", "", _OLDEST.format(count=len(oldest), ways=_counts(oldest)), ""]
    lines += ["| family | task | way | why | newest |", "|---|---|---|---|---|"]
    lines += [f"| {old.kind} | {old.task} | {old.way} | {_cell(old.reason)} | {new.way} |" for old, new in others]
    return "\n".join([*lines, ""])


def _counts(verdicts: Sequence[Verdict]) -> str:
    counts = {way: sum(verdict.way == way for verdict in verdicts) for way in WAYS}
    return ", ".join(f"{count} {way}" for way, count in counts.items() if count)


def _cell(reason: str) -> str:
    return reason.replace("|", "/")


def forecast(verdicts: Sequence[Verdict]) -> str:
    """workers/checkpoint/families.json: by task and family how it runs, and why it is not packed."""
    tasks = {"generate": "generate", "classify": "classify", "embed": "embed"}
    ways = {
        name: {v.kind: [v.way, *([v.reason[:_MAX_REASON]] if v.reason else [])] for v in verdicts if v.task == task}
        for name, task in tasks.items()
    }
    return json.dumps(ways, indent=0, sort_keys=True) + "\n"


def _section(task: str, verdicts: Sequence[Verdict]) -> str:
    rest = sorted((v for v in verdicts if v.way != "packed"), key=lambda v: (WAYS.index(v.way), v.kind))
    packed = ", ".join(sorted(v.kind for v in verdicts if v.way == "packed"))
    lines = [f"## {_TITLES[task]}", "", f"{len(verdicts)} families: {_counts(verdicts)}.", ""]
    if packed:
        lines += [f"Packed: {packed}.", ""]
    if rest:
        lines += ["| family | way | why |", "|---|---|---|"]
        lines += [f"| {v.kind} | {v.way} | {_cell(v.reason)} |" for v in rest]
    return "\n".join([*lines, ""])
