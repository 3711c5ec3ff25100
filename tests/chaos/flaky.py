"""Random errors on the calls of this process to Redis and to local storage.

Half of them come before the call, half after it has been done: the caller is told of a failure that was none. Those
are the ones that double things.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

STORAGE_CALLS = ("list", "head", "try_read", "open", "put", "put_if_absent", "publish", "delete")


class Flaky:
    """`infect` makes calls fail with `chance`, in an order that `seed` alone decides; each adds a byte to `count`."""

    def __init__(self, seed: int, chance: float, count: Path) -> None:
        self._random, self._chance, self._count = random.Random(seed), chance, count

    def infect(self) -> None:
        import redis

        from parquetry.schemas.errors import StorageError
        from parquetry.schemas.storage.local import LocalStorage
        from parquetry.tasks.shard import outcome

        # how long a shard rests after a fault is not what is tested here
        outcome.FIRST_REST_S = outcome.LONGEST_REST_S = 0.1
        # below redis-py's own retries, which then send a script a second time; and above them, which ends in our hands
        self._wrap(redis.Redis, "_send_command_parse_response", _redis_error)
        self._wrap(redis.Redis, "execute_command", _redis_error, share=0.4)
        for name in STORAGE_CALLS:
            fail = functools.partial(StorageError, operation=name, path="somewhere", reason="injected")
            self._wrap(LocalStorage, name, fail)

    def _wrap(self, owner: type, name: str, error: Callable[[], Exception], share: float = 1.0) -> None:
        true = getattr(owner, name)

        @functools.wraps(true)
        def flaky(*args: Any, **kwargs: Any) -> Any:
            draw = self._random.random() / (self._chance * share)
            if draw < 0.5:
                raise self._struck(error)
            result = true(*args, **kwargs)
            if draw < 1.0:
                raise self._struck(error)
            return result

        setattr(owner, name, flaky)

    def _struck(self, error: Callable[[], Exception]) -> Exception:
        with self._count.open("ab") as file:
            file.write(b".")
        return error()


def _redis_error() -> Exception:
    import redis

    return redis.TimeoutError("injected: no answer in time")
