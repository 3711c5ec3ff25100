"""Claims, and what the ledger replies to its verbs."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, fields, replace
from enum import StrEnum

from parquetry.schemas.manifest import PartRecord


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One leased shard. Whoever holds the highest fence of a shard is its owner."""

    job: str
    shard: int
    fence: int
    worker: str
    #: where the job's parts go
    output: str
    #: leases of this shard lost before
    lost: int = 0
    #: digest of the job's record as it was registered
    record: str = ""
    #: whether rows are to blame where engines fail on different ones: the job was stopped for that, and retried
    blames_rows: bool = False
    #: in which retry of rows the shard's error rows are computed anew; 0 where the whole shard is
    round: int = 0

    @property
    def token(self) -> str:
        """What a beat, a release or a commit must match in Redis."""
        return f"{self.fence}:{self.worker}"


@dataclass(frozen=True, kw_only=True)
class LeaseProgress:
    """How far a running shard is: of finished rows, and computed by its engine, unfinished rows included."""

    rows: int = 0
    error_rows: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    computed_prompt_tokens: int = 0
    computed_output_tokens: int = 0
    #: whether it has its engine; before that it waits for one to load
    is_computing: bool = False
    #: output tokens that a row of it is likely to have, 0 while nothing tells
    row_output: float = 0.0
    #: of the finished rows, those that an earlier attempt has computed, and their tokens
    reused_rows: int = 0
    reused_prompt_tokens: int = 0
    reused_output_tokens: int = 0

    @property
    def text(self) -> str:
        """The numbers in the order above, as the scripts keep them: `row_output` in thousandths."""
        numbers = astuple(replace(self, row_output=round(1000 * self.row_output)))
        return ":".join(str(int(number)) for number in numbers)

    @classmethod
    def parse(cls, text: str) -> LeaseProgress:
        """What `text` says; nothing of a text that is empty."""
        told = map(int, filter(None, text.split(":")))
        numbers = dict(zip((field.name for field in fields(cls)), told, strict=False))
        is_computing, row_output = numbers.pop("is_computing", 0), numbers.pop("row_output", 0)
        return cls(**numbers, is_computing=bool(is_computing), row_output=row_output / 1000)


class BeatReply(StrEnum):
    OK = "OK"
    #: somebody else has the shard, or will
    LOST = "LOST"
    CANCEL = "CANCEL"
    #: give the shard back; the job may be resumed
    PAUSE = "PAUSE"
    #: give the shard back; the job was stopped since no engine can do it
    FAIL = "FAIL"


class PrepareReply(StrEnum):
    OK = "OK"
    #: renew the lease, then ask again
    SHORT = "SHORT"
    LOST = "LOST"
    CANCEL = "CANCEL"


class CommitReply(StrEnum):
    COMMITTED = "COMMITTED"
    #: committed, and nothing of the job is left to run
    LAST = "LAST"
    ALREADY = "ALREADY"
    #: not the owner; look at what is in storage
    FENCED = "FENCED"


class ReleaseReply(StrEnum):
    OK = "OK"
    FAILED = "FAILED"
    #: failed, and nothing of the job is left to run
    LAST = "LAST"
    LOST = "LOST"


@dataclass(frozen=True, kw_only=True)
class Reaped:
    """What one pass over expired leases took back."""

    lost: int
    #: of the lost, those set aside because their attempts are used up
    failed: int
    #: shards whose rest is over
    rested: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was wrong with a job's counters, and is repaired."""

    #: bitmap minus counter
    done_off: int
    #: shards that were neither pending, leased, committed nor failed
    put_back: int


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """An unfinished job: running, paused, or ended with leases out."""

    job: str
    queue: str
    state: str
    pending: int
    left: int
    #: of its record; 0 where the queue does not know
    version: int


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What is kept of a committed part beside the bitmap, in 40 bytes."""

    sha256: str
    fence: int
    error_rows: int

    _layout = struct.Struct(">32sII")
    num_bytes = _layout.size

    @classmethod
    def of(cls, part: PartRecord) -> Digest:
        return cls(sha256=part.sha256, fence=part.fence, error_rows=part.error_rows)

    def pack(self) -> bytes:
        return self._layout.pack(bytes.fromhex(self.sha256), self.fence, self.error_rows)

    @classmethod
    def unpack(cls, data: bytes) -> Digest | None:
        """None for the zeros of a part that was never counted here, or one cut short."""
        if len(data) < cls.num_bytes or not any(data):
            return None
        sha256, fence, error_rows = cls._layout.unpack(data)
        return cls(sha256=sha256.hex(), fence=fence, error_rows=error_rows)
