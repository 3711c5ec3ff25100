"""A job as the ledger keeps it: the fields of its ctl hash, written at registration and read back as JobStatus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.progress.histogram import SHARD_SECONDS
from parquetry.schemas.progress.history import HistoryPoint, KeptBudget
from parquetry.schemas.progress.prediction import read_prediction
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus, ShardFailure
from parquetry.schemas.spec.budget import BudgetSpec
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.engine_needs import OWN_QUEUES, engine_needs
from parquetry.workers.engine_spec import EngineSpec

#: in the order in which scripts tell them
REUSED = ("reused_rows", "reused_prompt_tokens", "reused_output_tokens")
#: how many failures a status carries
MAX_FAILURES = 50
#: fields that name a kind of worker, and say why it cannot run the job
DECLINED = "declined:"


def queue_of(spec: JobSpec) -> str:
    """The queue whose workers can run the job: Optimum and vLLM need environments of their own."""
    return spec.model.backend if spec.model.backend in OWN_QUEUES else "default"


def ctl_fields(record: JobRecord, queue: str, done: Sequence[PartRecord]) -> dict[str, Any]:
    """What registration writes; state and times are added on the server."""
    return {
        **settings_fields(record),
        "task": record.spec.task,
        "name": record.spec.name or "",
        "version": record.version,
        "record": record.digest,
        "output": str(Location.parse(record.spec.output.path)),
        "queue": queue,
        "priority": record.spec.priority,
        "notify": "\n".join(record.spec.notify),
        **budget_fields(record.spec.budget),
        "shards": record.shard_plan.num_shards,
        "rows": record.shard_plan.num_rows,
        "done": len(done),
        "rows_done": sum(part.rows for part in done),
        "error_rows": sum(part.error_rows for part in done),
        "prompt_tokens": sum(part.prompt_tokens for part in done),
        "output_tokens": sum(part.output_tokens for part in done),
    }


def budget_fields(budget: BudgetSpec | KeptBudget | None) -> dict[str, Any]:
    """The fields of a budget; "" for what has no bound or is not known."""
    if budget is None or budget.ms is None:
        return {"budget_ms": "", "price": ""}
    return {"budget_ms": budget.ms, "price": "" if budget.price_per_gpu_hour is None else budget.price_per_gpu_hour}


def settings_fields(record: JobRecord) -> dict[str, Any]:
    """Of these fields, those that a retry of rows with other settings changes."""
    return {
        "model": record.spec.model.id,
        **{name: getattr(record.spec.model, name) for name in ("backend", "quantization", "attention")},
        "max_output_tokens": _max_output_tokens(record.spec),
        "needs": "\n".join(engine_needs(record.spec.model)),
        "model_key": EngineSpec.of(record).model_key,
    }


def _max_output_tokens(spec: JobSpec) -> int:
    """Most tokens that one row's outputs may have together."""
    return spec.generation.max_new_tokens * spec.generation.n if spec.task == "generate" else 0


def pairs(flat: Iterable[Any]) -> dict[str, Any]:
    """Field, value, field, value ... as a dict."""
    items = iter(flat)
    return dict(zip(items, items, strict=True))


def read_status(job: str, reply: list[Any]) -> JobStatus:
    """The reply of status.lua as a JobStatus."""
    now, failed, sums, flat, failures, held, times, earlier, errors, due = reply
    ctl = pairs(flat)
    shards, done = int(ctl["shards"]), int(ctl["done"])
    holders = _holders(held)
    running = sum(leased for leased, _ in holders.values())
    return JobStatus(
        job=job,
        state=JobState(ctl["state"]),
        name=ctl.get("name", ""),
        **{name: ctl[name] for name in ("task", "model", "output", "queue")},
        **{name: int(ctl[name]) for name in ("priority", "rows", "rows_done", "error_rows", "retries")},
        **{name: int(ctl[name]) for name in ("prompt_tokens", "output_tokens")},
        created=int(ctl["created"]) / 1000,
        now=now / 1000,
        ended=int(ctl["ended"]) / 1000 if "ended" in ctl else None,
        refusal=ctl.get("refusal"),
        shards=shards,
        shards_done=done,
        shards_running=running,
        shards_failed=failed,
        shards_due=due,
        shards_pending=max(0, shards - done - running - failed),
        shards_computing=sum(computing for _, computing in holders.values()),
        workers={worker: leased for worker, (leased, _) in holders.items()},
        active_seconds=times[0] / 1000,
        worker_seconds=times[1] / 1000,
        gpu_seconds=times[2] / 1000,
        **_budget(ctl),
        failures=tuple(_failure(shard, text) for shard, text in pairs(failures).items()),
        errors={kind: int(count) for kind, count in pairs(errors).items()},
        earlier=HistoryPoint.parse(earlier) if earlier else None,
        prediction=read_prediction(ctl.get("prediction", "")),
        **_running(ctl, sums),
        **_engine(ctl),
        **_durations(ctl),
    )


def damaged_status(job: str, now: float, damage: str) -> JobStatus:
    """A job whose record cannot be read: nobody works on it until `recover` has rebuilt it."""
    nothing = dict.fromkeys(("shards", "shards_pending", "shards_running", "shards_done", "shards_failed"), 0)
    counts = dict.fromkeys(("priority", "rows", "rows_done", "error_rows"), 0)
    unknown = dict.fromkeys(("task", "model", "output", "queue"), "")
    return JobStatus(
        job=job, state=JobState.FAILED, created=now, now=now, damage=damage, **nothing, **counts, **unknown
    )


def _holders(flat: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """Of each worker: shards that it holds, and those of them that have their engine."""
    items = iter(flat)
    return {worker: (leased, computing) for worker, leased, computing in zip(items, items, items, strict=True)}


def _running(ctl: dict[str, Any], sums: Sequence[int]) -> dict[str, float]:
    """What running shards have told, beside or with what is committed."""
    rows, error_rows, prompt, output, computed_prompt, computed_output, row_output, *reused = sums
    return {
        "running_rows": rows,
        "running_error_rows": error_rows,
        "running_tokens": prompt + output,
        "running_output_tokens": output,
        "row_output": row_output / 1000,
        "computed_prompt_tokens": int(ctl["prompt_tokens"]) + computed_prompt,
        "computed_output_tokens": int(ctl["output_tokens"]) + computed_output,
        **{name: int(ctl.get(name, 0)) + running for name, running in zip(REUSED, reused, strict=True)},
    }


def _engine(ctl: dict[str, Any]) -> dict[str, Any]:
    # none of it in a job that an earlier version registered
    known: dict[str, Any] = {name: ctl[name] for name in ("backend", "quantization", "attention") if name in ctl}
    needs = tuple(filter(None, ctl.get("needs", "").split("\n")))
    known["declined"] = {name.removeprefix(DECLINED): why for name, why in ctl.items() if name.startswith(DECLINED)}
    counts = {name: int(ctl.get(name, 0)) for name in ("version", "max_output_tokens")}
    return {**known, **counts, "needs": needs}


def _budget(ctl: dict[str, Any]) -> dict[str, Any]:
    budget_ms, price = ctl.get("budget_ms", ""), ctl.get("price", "")
    return {
        "budget_gpu_seconds": int(budget_ms) / 1000 if budget_ms else None,
        "price_per_gpu_hour": float(price) if price else None,
        "why": ctl.get("why", ""),
    }


def _durations(ctl: dict[str, Any]) -> dict[str, Any]:
    seconds = {f"{name}_seconds": int(ctl.get(f"{name}_ms", 0)) / 1000 for name in ("shard", "prepare", "write")}
    places = range(SHARD_SECONDS.num_buckets)
    return {**seconds, "shard_durations": tuple(int(ctl.get(f"took:{place}", 0)) for place in places)}


def _failure(shard: str, text: str) -> ShardFailure:
    attempts, _, reason = text.partition(":")
    return ShardFailure(shard=int(shard), attempts=int(attempts), reason=reason)
