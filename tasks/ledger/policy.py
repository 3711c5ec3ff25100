"""The ledger's time limits and counts, taken from the settings once."""

from __future__ import annotations

from dataclasses import dataclass

from parquetry.schemas.settings import Settings, settings

LULL_MS = 20_000
GRACE_MS = 15_000


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long a lease lasts, how often it may be lost, how long a job may wait for others."""

    lease_s: float
    #: leases a shard may lose before it is quarantined: run with care, so that the rows to blame are found
    max_attempts: int
    #: a waiting job gets the next shard of its priority after this long, whatever model is loaded
    starvation_s: float

    #: leases it may lose in quarantine before it is set aside
    quarantine_attempts: int = 2

    @classmethod
    def of(cls, config: Settings | None = None) -> Policy:
        config = config or settings()
        return cls(
            lease_s=config.lease_seconds, max_attempts=config.max_attempts, starvation_s=config.starvation_seconds
        )

    @property
    def lease_ms(self) -> int:
        return int(self.lease_s * 1000)

    @property
    def lull_ms(self) -> int:
        """Where nobody has looked at leases for so long the broker was away; longer than a dead node's lock."""
        return max(self.lease_ms // 2, LULL_MS)

    @property
    def grace_ms(self) -> int:
        """What holders have after a lull to find the broker again, before a lease of theirs is taken back."""
        return min(self.lease_ms, GRACE_MS)

    @property
    def loss_limit(self) -> int:
        """Leases a shard may lose in all."""
        return self.max_attempts + self.quarantine_attempts

    @property
    def prepare_ms(self) -> int:
        """What a lease must still last when its holder starts to publish."""
        return self.lease_ms // 2
