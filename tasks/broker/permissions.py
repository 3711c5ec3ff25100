"""Which of our commands a broker's user may not run; each is tried on a key of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import NoPermissionError, RedisError

from parquetry.schemas.finding import Finding, Level
from parquetry.tasks.broker.connection import address_of, translated
from parquetry.tasks.keys import Keys

#: what looking at jobs takes, what changing them does, and what a worker does beside that
_READING = (
    *(("GET", "{k}"), ("HGETALL", "{k}"), ("HMGET", "{k}", "a"), ("LRANGE", "{k}", 0, 0), ("LLEN", "{k}")),
    *(("LINDEX", "{k}", 0), ("HLEN", "{k}"), ("HKEYS", "{k}")),
    *(("SMEMBERS", "{k}"), ("ZRANGE", "{k}", 0, 0), ("TIME",), ("INFO", "server"), ("SCRIPT", "LOAD", "return 1")),
)
_CHANGING = (
    *(("SET", "{k}", "1", "PX", 1000), ("PEXPIRE", "{k}", 1000), ("DEL", "{k}"), ("HSET", "{k}", "a", 1)),
    *(("HINCRBY", "{k}", "a", 1), ("HDEL", "{k}", "a"), ("RPUSH", "{k}", "a"), ("LPUSH", "{k}", "a"), ("LPOP", "{k}")),
    *(("RPUSH", "{k}", "a"), ("LTRIM", "{k}", -1, -1)),
    *(("DEL", "{k}"), ("SADD", "{k}", "a"), ("SREM", "{k}", "a"), ("ZADD", "{k}", 1, "a"), ("ZREM", "{k}", "a")),
    *(("DEL", "{k}"), ("SETBIT", "{k}", 0, 1), ("SETRANGE", "{k}", 0, "a"), ("DEL", "{k}"), ("WATCH", "{k}")),
)
_WAITING = (("UNWATCH",), ("BRPOP", "{k}", 0.01))


def check_permissions(client: redis.Redis, env: str) -> Finding:
    """What the user of this connection lacks, by what it is for. Raises BrokerUnreachableError."""
    with translated(address_of(client)):
        user = _user(client)
        lacks = {what: _refused(client, env, of) for what, of in _NEEDED.items()}
    missing = {what: names for what, names in lacks.items() if names}
    if not missing:
        return Finding(name="permissions", level=Level.OK, text=f"the user {user} may do all that a worker does")
    text = "; ".join(f"for {what} it lacks {', '.join(names)}" for what, names in missing.items())
    level = Level.UNUSABLE if "looking at jobs" in missing else Level.WARNING
    fix = "give it what its role needs, as deploy/redis/users.acl does; a viewer needs the first of these alone"
    return Finding(name="permissions", level=level, text=f"the user {user}: {text}", fix=fix)


_NEEDED = {"looking at jobs": _READING, "submitting and changing them": _CHANGING, "running them": _WAITING}


def _user(client: redis.Redis) -> str:
    try:
        return str(client.execute_command("ACL WHOAMI"))
    except RedisError:
        return "of this address"


def _refused(client: redis.Redis, env: str, commands: tuple[tuple[Any, ...], ...]) -> list[str]:
    """The commands that are refused for want of permission, in order."""
    key = Keys(env).lock("doctor")
    refused: dict[str, None] = {}
    for command in commands:
        try:
            client.execute_command(*(key if part == "{k}" else part for part in command))
        except NoPermissionError:
            refused[str(command[0])] = None
        except redis.ResponseError:
            # of the wrong kind for the key that an earlier one, refused, did not make or unmake: it may be run
            pass
    with suppress(RedisError):
        client.delete(key)
    return list(refused)
