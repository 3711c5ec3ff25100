"""The permit: the whole content of a Celery message. It allows one CLAIM and names no shard."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parquetry.schemas.errors import PermitFormatError

PERMIT_VERSION = 1
#: Celery task name; producers and the reconciler enqueue by it
PERMIT_TASK = "parquetry.serve_permit"


class Permit(BaseModel):
    """Allows its holder to claim one shard from any job of a queue."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: int = PERMIT_VERSION
    queue: str = Field("default", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    #: who issued it: "submit", "worker" or "reconciler"; for logs only
    issued_by: str = Field("submit", max_length=64)

    @classmethod
    def decode(cls, message: object) -> Permit:
        """Raises PermitFormatError on anything that is not a permit of this version."""
        try:
            permit = cls.model_validate(message)
        except ValidationError as error:
            raise PermitFormatError(reason=error.errors()[0]["msg"]) from None
        if permit.version != PERMIT_VERSION:
            raise PermitFormatError(reason=f"version {permit.version}, this worker speaks {PERMIT_VERSION}")
        return permit

    def encode(self) -> dict[str, object]:
        """Plain data for the message body."""
        return self.model_dump()
