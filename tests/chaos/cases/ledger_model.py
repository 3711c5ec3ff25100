"""T19: random commands to the ledger's scripts on a real server, against a model of them in plain Python."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.arena import Arena
from tests.chaos.report import Outcome
from tests.integration.test_ledger_model import LedgerModel

EXAMPLES = {"short": 100, "long": 10_000}
STEPS = 30


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    outcome = Outcome(fault="T19 random commands against a model of the ledger", injected=EXAMPLES[profile])
    with Arena(folder) as arena:
        machine = type("SeededModel", (LedgerModel,), {"url": arena.server.url})
        try:
            run_state_machine_as_test(seeded(seed)(machine), settings=_settings(EXAMPLES[profile]))
        except AssertionError as error:
            outcome.violations.append(f"the ledger differs from its model: {error}")
    return [outcome]


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
