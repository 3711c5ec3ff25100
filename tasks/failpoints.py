"""Named points where a test can make a process die, stall or raise. Without PARQUETRY_FAILPOINTS they do nothing."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

from parquetry.schemas.errors import RetryableError, WrongSettingError
from parquetry.schemas.settings import settings

log = logging.getLogger(__name__)
Action = Literal["kill", "stop", "raise"]
ACTIONS: tuple[Action, ...] = get_args(Action)


class FailpointError(RetryableError):
    """The failpoint {name} was set to raise."""


class FailpointSyntaxError(WrongSettingError):
    """PARQUETRY_FAILPOINTS has {text!r}; write it as name:kill, name:stop or name:raise, with :N to strike N times."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What happens at a failpoint, and how often in all processes that share a state folder."""

    action: Action
    times: int = 1

    @classmethod
    def parse(cls, text: str) -> Strike:
        name, _, times = text.partition(":")
        action = next((action for action in ACTIONS if action == name), None)
        if action is None or not (times or "1").isdigit():
            raise ValueError(text)
        return cls(action=action, times=int(times or 1))


@lru_cache
def parse(text: str) -> dict[str, Strike]:
    """`"publish:kill,commit:raise:2"` by name. Raises FailpointSyntaxError."""
    strikes = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.strip().partition(":")
        try:
            strikes[name] = Strike.parse(rest)
        except ValueError:
            raise FailpointSyntaxError(text=item) from None
    return strikes


def failpoint(name: str) -> None:
    """Strike here, if a test asks for it and it has not struck often enough yet."""
    text = settings().failpoints
    if text and (strike := parse(text).get(name)) and _take_turn(name, strike.times):
        _strike(name, strike.action)


def _strike(name: str, action: Action) -> None:
    log.warning("failpoint %s: %s", name, action)
    if action == "raise":
        raise FailpointError(name=name)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def _take_turn(name: str, times: int) -> bool:
    """A file a turn: a process that was killed at its turn must not get another when it is started again."""
    folder = settings().state_dir / "failpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return any(_created(folder / f"{name}.{turn}") for turn in range(times))


def _created(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
