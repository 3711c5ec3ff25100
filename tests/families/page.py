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
#: characters of a reason that plan shows
_MAX_REASON = 160
_TITLES = {"generate": "Generation", "classify": "Classification", "label tokens": "Token labels", "embed": "Embedding"}


def page(verdicts: Sequence[Verdict]) -> str:
    """The whole page."""
    versions = " and ".join(sorted({verdict.transformers for verdict in verdicts}))
    sections = [_section(task, [verdict for verdict in verdicts if verdict.task == task]) for task in TASKS]
    return "\n".join([_HEAD.format(versions=versions), *sections])


def forecast(verdicts: Sequence[Verdict]) -> str:
    """workers/checkpoint/families.json: by task and family how it runs, and why it is not packed."""
    tasks = {"generate": "generate", "classify": "classify", "embed": "embed"}
    ways = {
        name: {v.kind: [v.way, *([v.reason[:_MAX_REASON]] if v.reason else [])] for v in verdicts if v.task == task}
        for name, task in tasks.items()
    }
    return json.dumps(ways, indent=0, sort_keys=True) + "\n"


def _section(task: str, verdicts: Sequence[Verdict]) -> str:
    counts = {way: sum(verdict.way == way for verdict in verdicts) for way in WAYS}
    summary = ", ".join(f"{count} {way}" for way, count in counts.items() if count)
    rest = sorted((v for v in verdicts if v.way != "packed"), key=lambda v: (WAYS.index(v.way), v.kind))
    packed = ", ".join(sorted(v.kind for v in verdicts if v.way == "packed"))
    lines = [f"## {_TITLES[task]}", "", f"{len(verdicts)} families: {summary}.", ""]
    if packed:
        lines += [f"Packed: {packed}.", ""]
    if rest:
        lines += ["| family | way | why |", "|---|---|---|"]
        lines += [f"| {v.kind} | {v.way} | {v.reason.replace('|', '/')} |" for v in rest]
    return "\n".join([*lines, ""])
