"""The Lua scripts: one file a verb, read once, sent by digest."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Any

import redis

from parquetry.tasks.broker.connection import address_of, translated


@lru_cache
def source(name: str) -> str:
    """What is sent for `lua/<name>.lua`: its text behind the prelude of each folder on the way to it."""
    *folders, _ = name.split("/")
    preludes = ["/".join([*folders[:depth], "prelude"]) for depth in range(len(folders) + 1)]
    return "\n".join(map(_text, [*preludes, name]))


def _text(name: str) -> str:
    return files("parquetry.tasks.ledger").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


class Scripts:
    """Calls scripts by name; one that the server has forgotten is loaded again."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.url = address_of(client)
        self._known: dict[str, Callable[..., Any]] = {}

    def __call__(self, name: str, keys: list[str], args: list[Any]) -> Any:
        """Raises BrokerUnreachableError; the script may have run all the same."""
        with translated(self.url):
            if name not in self._known:
                self._known[name] = self.client.register_script(source(name))
            return self._known[name](keys=keys, args=args)
