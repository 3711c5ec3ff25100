"""Results of the encoder benchmark: printed as they come, and kept in files that a cut run leaves readable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_COLUMNS = "| side | from | rows | seconds | tokens/s | times padded | of matmul | max difference |"


@dataclass(frozen=True)
class Result:
    """One side over the rows of one table."""

    shape: str
    lengths: str
    side: str
    #: ids, text or files
    source: str
    rows: int
    tokens: int
    seconds: float
    #: share of the card's matmul rate, None on a CPU
    mfu: float | None = None
    #: largest difference to the first side with such outputs, None for that one
    difference: float | None = None

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Report:
    """A Markdown and a JSON file, written anew with every result."""

    def __init__(self, head: list[str], stem: Path) -> None:
        self._lines, self._stem = list(head), stem
        self.results: list[Result] = []
        stem.parent.mkdir(parents=True, exist_ok=True)
        print("\n".join(head), flush=True)

    def table(self, title: str) -> None:
        """Begin a table."""
        self.say("", f"### {title}", "", _COLUMNS, "|---|---|---|---|---|---|---|---|")

    def add(self, result: Result, peer: Result) -> None:
        """A line of the table; `peer` is the side it is compared with."""
        self.results.append(result)
        share = "" if result.mfu is None else f"{result.mfu:.1%}"
        difference = "" if result.difference is None else f"{result.difference:.4f}"
        self.say(
            f"| {result.side} | {result.source} | {result.rows:,} | {result.seconds:.3f} | {result.rate:,.0f} |"
            f" {result.rate / peer.rate:.2f} | {share} | {difference} |"
        )

    def ratios(self, shape: str, lengths: str, pairs: list[tuple[str, str]]) -> None:
        """One line on how many times as fast the first of each pair is, where both ran."""
        rates = {r.side: r.rate for r in self.results if (r.shape, r.lengths) == (shape, lengths)}
        told = [f"{a} / {b} {rates[a] / rates[b]:.2f}" for a, b in pairs if a in rates and b in rates]
        if told:
            self.say("", f"Ratios ({shape}, {lengths}): {'; '.join(told)}.")

    def say(self, *lines: str) -> None:
        """Print lines and keep them."""
        print("\n".join(lines), flush=True)
        self._lines += lines
        self._stem.with_suffix(".md").write_text("\n".join([*self._lines, ""]), encoding="utf-8")
        data = [{**asdict(result), "tokens_per_second": round(result.rate)} for result in self.results]
        self._stem.with_suffix(".json").write_text(json.dumps(data, indent=1), encoding="utf-8")
