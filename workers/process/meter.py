"""Times the steps of an engine, and tells what it has counted."""

from __future__ import annotations

import time
from collections.abc import Mapping

from parquetry.schemas.progress.histogram import STEP_SECONDS
from parquetry.schemas.progress.status import EngineStats
from parquetry.workers.engine import Engine
from parquetry.workers.request import Result

#: what grows from an engine's start on
_COUNTED = ("prompt_tokens", "output_tokens", "computed_tokens", "decode_tokens", "padding_tokens", "cached_tokens")

#: characters of a sentence on a price; together with the counts they fit a message of the pulse
MAX_SENTENCE = 600
#: keys of an engine's provenance that tell of a price, and in what words
_SLOWER = {
    "runs_without": "runs without",
    "why_eager": "attention is computed step by step",
    "equal_lengths_only": "only rows of equal length share a batch",
    "one_row_at_a_time": "rows run one at a time",
}


class Meter:
    """Takes an engine's steps. `read` may be called in the middle of one, by the thread that takes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # an engine has answered trial rows before it is used
        self._before = {name: value for name, value in engine.stats().items() if name in _COUNTED}
        self._begun = time.monotonic()
        self._slowed_by = slowed_by(engine.describe())
        self._busy_s = 0.0
        self._durations = [0] * STEP_SECONDS.num_buckets
        #: when the step under way began
        self._step_begun: float | None = None

    def step(self) -> list[Result]:
        """One step of the engine."""
        self._step_begun = time.monotonic()
        try:
            return self._engine.step()
        finally:
            passed = time.monotonic() - self._step_begun
            self._busy_s += passed
            self._durations[STEP_SECONDS.place(passed)] += 1
            self._step_begun = None

    def read(self) -> EngineStats:
        """The counts as they are now."""
        now = time.monotonic()
        under_way = 0.0 if self._step_begun is None else now - self._step_begun
        times = {"seconds": round(now - self._begun, 3), "busy_seconds": round(self._busy_s + under_way, 3)}
        steps = {"steps": sum(self._durations), "step_durations": tuple(self._durations)}
        stats = {name: value - self._before.get(name, 0) for name, value in self._engine.stats().items()}
        return EngineStats.model_validate({**stats, **times, **steps, "slowed_by": self._slowed_by})


def slowed_by(about: Mapping[str, str]) -> tuple[str, ...]:
    """What an engine's provenance says it does without, a sentence each."""
    return tuple(f"{text}: {about[key]}"[:MAX_SENTENCE] for key, text in _SLOWER.items() if key in about)
