"""A report as one HTML file: style within, pictures within, no script, nothing fetched; text from data is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from parquetry.schemas import __version__
from parquetry.tasks.report.chart import chart
from parquetry.tasks.report.duration import duration
from parquetry.tasks.report.error_groups import ErrorExample, ErrorGroup
from parquetry.tasks.report.job_report import JobReport
from parquetry.tasks.report.outcome import Outcome

STYLE = (Path(__file__).parent / "report.css").read_text("utf-8")
#: only this style, and nothing else at all
CONTENT_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)


def report_page(report: JobReport) -> str:
    """The whole document."""
    parts = (_head(report), _charts(report), _errors(report), _predicted(report), _spec(report), _computed_with(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(CONTENT_POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.outcome.job)}: {escape(report.outcome.state)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _head(report: JobReport) -> str:
    outcome = report.outcome
    what = f"{report.task} with {report.model} into {report.output}"
    return (
        f'<h1>{escape(outcome.job)}</h1><p><b class="{escape(outcome.state)}">{escape(outcome.state)}</b>, '
        f'{escape(what)}</p><p class="faint">submitted {_moment(outcome.created)}, {_until(outcome)}; '
        f"written by parquetry {__version__}</p>"
        f'<div class="facts">{"".join(_fact(*fact) for fact in _facts(outcome))}</div>'
    )


def _facts(outcome: Outcome) -> Iterable[tuple[str, str, str]]:
    done = f"{outcome.rows_done:,} of {outcome.rows:,}"
    yield "Rows", done, f"{outcome.error_rows:,} of them error rows" if outcome.error_rows else "none of them failed"
    shards = f"{outcome.shards_failed:,} failed" if outcome.shards_failed else "none failed"
    retries = "" if outcome.retries is None else f", {outcome.retries:,} retried"
    yield "Shards", f"{outcome.shards_done:,} of {outcome.shards:,}", shards + retries
    yield "Time", duration(outcome.elapsed_s), f"{duration(outcome.active_s)} of it computing"
    if outcome.prompt_tokens is not None and outcome.active_s:
        tokens = outcome.prompt_tokens + (outcome.output_tokens or 0)
        yield "Speed", f"{tokens / outcome.active_s:,.0f} tok/s", f"{outcome.rows_done / outcome.active_s:,.1f} rows/s"
        split = f"{outcome.prompt_tokens:,} prompt, {outcome.output_tokens or 0:,} output"
        yield "Tokens", f"{tokens:,}", split
    if outcome.gpu_s is not None and outcome.price_per_gpu_hour is not None:
        hours, price = outcome.gpu_s / 3600, outcome.price_per_gpu_hour
        yield "Cost", f"{hours * price:,.2f}", f"{hours:,.2f} GPU hours at {price:,.2f}"
    elif outcome.worker_s is not None:
        yield "Worker time", f"{outcome.worker_s / 3600:,.3f} h", "of workers that computed"
    if outcome.shards_done and outcome.shard_s:
        parts = (outcome.prepare_s / outcome.shards_done, outcome.write_s / outcome.shards_done)
        mean = duration(outcome.shard_s / outcome.shards_done)
        yield "A shard", mean, f"{duration(parts[0])} preparing rows, {duration(parts[1])} writing"


def _fact(name: str, value: str, more: str) -> str:
    return f"<div><small>{escape(name)}</small><b>{escape(value)}</b><small>{escape(more)}</small></div>"


def _charts(report: JobReport) -> str:
    at, rates = report.rates["at"], report.rates
    tokens = [("output tokens", rates["output_tokens_per_s"]), ("prompt tokens", rates["prompt_tokens_per_s"])]
    waste = [("KV cache in use", rates["kv_use"]), ("prefix hits", rates["cached"]), ("padding", rates["padding"])]
    drawn = [
        chart(
            "Tokens per second", at, tokens if any(rates["prompt_tokens_per_s"]) else [], lambda value: f"{value:,.0f}"
        ),
        chart("Rows per second", at, [("rows", rates["rows_per_s"])], lambda value: f"{value:,.3g}"),
        chart("Waste and cache", at, waste, lambda value: f"{value:.0%}"),
    ]
    return f"<h2>Over time</h2>{''.join(drawn)}" if any(drawn) else ""


def _errors(report: JobReport) -> str:
    failed = "".join(
        f'<div class="error"><p class="bad">shard {failure.shard}, after {failure.attempts} attempts: '
        f"{escape(failure.reason)}</p></div>"
        for failure in report.outcome.failures
    )
    groups = "".join(map(_group, report.errors))
    shards = f"<h2>Failed shards</h2>{failed}" if failed else ""
    return shards + (f"<h2>Error rows</h2>{groups}" if groups else "")


def _group(group: ErrorGroup) -> str:
    numbers = ", ".join(f"{row:,}" for row in group.row_numbers[:40])
    more = f"{numbers}{' ...' if group.rows > 40 else ''}"
    return (
        f'<div class="error"><p><b class="bad">{group.rows:,}</b> {escape(group.kind)}</p>'
        f'<p class="faint">rows {more}</p>{"".join(map(_example, group.examples))}</div>'
    )


def _example(example: ErrorExample) -> str:
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td><pre>{escape(_text(value))}</pre></td></tr>"
        for name, value in example.input.items()
    )
    return (
        f'<div class="example"><p class="faint">row {example.row:,}, shard {example.shard}</p>'
        f'<p class="bad">{escape(example.error)}</p><table><tbody>{cells}</tbody></table></div>'
    )


def _predicted(report: JobReport) -> str:
    if not report.prediction:
        return ""
    rows = "".join(_row(line["what"], line["predicted"], line["actual"]) for line in report.prediction)
    return f"<h2>Predicted against actual</h2>{_table(('', 'Predicted', 'Actual'), rows)}"


def _spec(report: JobReport) -> str:
    chosen = (line for line in report.spec if line.is_chosen)
    rows = "".join(
        _row(line.key, _text(line.value), "" if line.default is None else _text(line.default)) for line in chosen
    )
    return (
        f"<h2>Spec</h2><p class='faint'>What differs from the defaults.</p>{_table(('Key', 'Value', 'Default'), rows)}"
    )


def _computed_with(report: JobReport) -> str:
    rows = "".join(_row(key.replace("_", " "), value) for key, value in report.provenance.items())
    files = "".join(_row(path, f"{count:,} rows", f"{size:,} bytes") for path, count, size in report.files)
    more = report.num_files - len(report.files)
    rest = f'<p class="faint">and {more:,} more files</p>' if more > 0 else ""
    provenance = f"<h2>Provenance and versions</h2>{_table((), rows)}" if rows else ""
    return f"{provenance}<h2>Input</h2>{_table((), files)}{rest}"


def _table(names: tuple[str, ...], rows: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if names else ''}<tbody>{rows}</tbody></table>"


def _row(name: str, *cells: Any) -> str:
    return f"<tr><th>{escape(name)}</th>{''.join(f'<td><pre>{escape(_text(cell))}</pre></td>' for cell in cells)}</tr>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _until(outcome: Outcome) -> str:
    is_over = outcome.state in ("done", "failed", "cancelled")
    return f"{'ended' if is_over else 'as of'} {_moment(outcome.ended)}"


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "at a time that is not known"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
