"""A job as lines of text of a given width: what a terminal redraws, and what a log gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.text import Text

from parquetry.monitor.job_view import JobView
from parquetry.monitor.progress.engine_view import EngineView
from parquetry.monitor.progress.in_flight import WorkInFlight
from parquetry.monitor.progress.job_phase import loaded_text
from parquetry.schemas.progress.states import EnginePhase, JobPhase
from parquetry.schemas.progress.status import JobStatus, WorkerStatus
from parquetry.tasks.report.duration import duration
from parquetry.terminal.display import number, safe_text

PHASE_STYLES = {
    JobPhase.QUEUED: "yellow",
    JobPhase.STARTING: "yellow",
    JobPhase.LOADING: "yellow",
    JobPhase.RUNNING: "cyan",
    JobPhase.STALLED: "red",
    JobPhase.PAUSED: "yellow",
    JobPhase.DONE: "green",
    JobPhase.FAILED: "red",
    JobPhase.CANCELLED: "yellow",
}
#: a bar shorter than this tells nothing
LEAST_BAR = 8
MOST_BAR = 40
SHOWN_WORKERS = 8
SHOWN_KINDS = 5
BARS = {True: ("━", "╌"), False: ("#", ".")}


def percent(fraction: float) -> str:
    """42%; never 100% before the end."""
    return f"{int(100 * fraction + 1e-9)}%"


def time_left(view: JobView) -> str:
    """4 to 6 min left; measuring while there is no evidence; empty where nothing runs."""
    progress = view.progress
    if view.phase.phase is not JobPhase.RUNNING:
        return ""
    if progress.eta_low_s is None or progress.eta_high_s is None:
        return "measuring"
    return f"{time_range(progress.eta_low_s, progress.eta_high_s)} left"


def time_range(low: float, high: float) -> str:
    """Both ends in the unit of the larger one: 20 to 40 s, 4 to 6 min, 1.5 to 2 h."""
    unit, seconds = ("s", 1) if high < 100 else ("min", 60) if high < 100 * 60 else ("h", 3600)
    texts = [_in_unit(value / seconds) for value in (low, high)]
    return f"{texts[0]} {unit}" if texts[0] == texts[1] else f"{texts[0]} to {texts[1]} {unit}"


def _in_unit(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"


def facts(view: JobView) -> list[str]:
    """What one line says of a job, the most important first."""
    status, progress = view.status, view.progress
    found = [
        f"{progress.rows_done:,}/{progress.rows:,} rows",
        time_left(view),
        f"{duration(progress.elapsed_s)} so far",
    ]
    if view.phase.phase is JobPhase.RUNNING:
        found += [f"{number(rate)} {unit}" for rate, unit in _rates(view) if rate is not None]
    counts = (
        (progress.error_rows, "error rows"),
        (status.retries, "retries"),
        (status.shards_failed, "failed shards"),
    )
    found += [f"{count:,} {name}" for count, name in counts if count]
    return [fact for fact in found if fact]


def _rates(view: JobView) -> list[tuple[float | None, str]]:
    return [(view.progress.rows_per_s, "rows/s"), (view.progress.tokens_per_s, "tok/s")]


def summary(view: JobView) -> str:
    """Phase, part done and what else is known, in one line for a log."""
    parts = [view.phase.text, percent(view.progress.fraction), *facts(view)]
    return ", ".join(parts)


def job_lines(view: JobView, width: int, *, fancy: bool = True) -> list[Text]:
    """The job at most `width` columns wide: a bar, its phase where that needs a word, its workers, its error rows."""
    lines = [_bar_line(view, width, fancy)]
    if view.phase.reason:
        lines.append(_phase_line(view))
    lines += [Text(line) for line in _worker_lines(view)]
    lines += [Text(line, "red") for line in error_lines(view.status.errors)]
    for line in lines:
        line.truncate(width, overflow="ellipsis" if fancy else "crop")
    return lines


def _phase_line(view: JobView) -> Text:
    seconds = "" if view.phase.seconds is None else f" ({duration(view.phase.seconds)})"
    return Text(f"  {safe_text(view.phase.reason, 400)}{seconds}", PHASE_STYLES[view.phase.phase])


def _bar_line(view: JobView, width: int, fancy: bool) -> Text:
    """Phase, bar, part, then as many facts as fit; on a narrow terminal the bar makes room."""
    head, tail = f"{view.phase.phase.value} ", f" {percent(view.progress.fraction)}"
    kept: list[str] = []
    for fact in facts(view):
        if len(head) + len(tail) + len("  ".join([*kept, fact])) + 2 <= width - (MOST_BAR // 2 if width > 80 else 0):
            kept.append(fact)
    tail += "".join(f"  {fact}" for fact in kept)
    room = min(width - len(head) - len(tail), MOST_BAR)
    style = PHASE_STYLES[view.phase.phase]
    bar = _bar(view.progress.fraction, room, fancy) if room >= LEAST_BAR else ""
    return Text.assemble((head, style), (bar, style), tail if bar else tail.lstrip())


def _bar(fraction: float, width: int, fancy: bool) -> str:
    full, empty = BARS[fancy]
    filled = int(fraction * width)
    return full * filled + empty * (width - filled)


def _worker_lines(view: JobView) -> Iterator[str]:
    """A line a worker that holds shards of the job."""
    for worker, engine in list(zip(view.workers, view.engines, strict=True))[:SHOWN_WORKERS]:
        yield f"  {worker_text(worker, engine)}"
    if (more := len(view.workers) - SHOWN_WORKERS) > 0:
        yield f"  and {more:,} more workers"


def worker_text(worker: WorkerStatus, view: EngineView | None) -> str:
    """Device and host, phase, what its engine does."""
    name = f"{worker.device} of {worker.host}"
    if worker.state.phase is EnginePhase.LOADING:
        return f"{name}: loads {loaded_text(worker.state)}"
    if worker.state.phase is not EnginePhase.READY or view is None:
        return f"{name}: {worker.state.phase.value}"
    rates = f"{number(view.prompt_tokens_per_s)} prompt and {number(view.output_tokens_per_s)} output tok/s"
    held = f"{view.running:,} rows in work, {view.waiting:,} waiting"
    shares = [("padding", view.padding_share), ("cache", view.kv_use), ("prefix hits", view.cached_share)]
    return ", ".join([f"{name}: {rates}", held, *(f"{what} {share:.0%}" for what, share in shares if share)])


def error_lines(errors: Mapping[str, int]) -> list[str]:
    """Error rows grouped by what is wrong with them: the most frequent kinds, each with its count."""
    ordered = sorted(errors.items(), key=lambda pair: -pair[1])
    lines = [f"  {count:,} error rows: {safe_text(kind)}" for kind, count in ordered[:SHOWN_KINDS]]
    more = sum(count for _, count in ordered[SHOWN_KINDS:])
    return [*lines, f"  {more:,} error rows of other kinds"] if more else lines


def in_flight_line(work: WorkInFlight, *, are_kept: bool = True) -> str:
    """What giving the running shards back costs; whether their finished rows `are_kept`, which a cancel drops."""
    if not work.shards:
        return "Nothing is in flight."
    shards = "1 shard" if work.shards == 1 else f"{work.shards:,} shards"
    rows = f"{work.rows:,} finished rows ({work.tokens:,} tokens), which are {'kept' if are_kept else 'dropped'}"
    dropped = f"{work.unfinished_tokens:,} tokens of unfinished rows, which are dropped"
    return f"In flight: {shards} with {rows}, and {dropped} (about {duration(work.unfinished_s)} of work)."


def opening_lines(status: JobStatus, log: object | None) -> list[str]:
    """What is said before anything happens: the job's id, where its output goes, where to look when it goes wrong."""
    name = f" ({status.name})" if status.name else ""
    lines = [f"Job {status.job}{name}", f"Output: {safe_text(status.output, limit=4096)}"]
    return [*lines, f"Log: {log}"] if log is not None else lines
