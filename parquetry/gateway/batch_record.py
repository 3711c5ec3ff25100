"""What is kept of a batch from the moment that it is created, and the object that clients read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.spec.batch_format import Url

BatchObject = dict[str, Any]
#: the one completion window there is, as OpenAI has it
WINDOWS = {"24h": 24 * 3600}
#: a batch in one of these changes no more
FINAL = ("completed", "failed", "expired", "cancelled")


class BatchRecord(BaseModel):
    """A batch as it was asked for. Never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str
    user: str
    endpoint: Url
    input_file_id: str
    completion_window: str
    created_at: int
    metadata: dict[str, str] | None = None
    #: name of the model that its lines ask for
    model: str

    @property
    def expires_at(self) -> int:
        """When a batch that has not ended is stopped."""
        return self.created_at + WINDOWS[self.completion_window]

    def told(self, status: str, **known: Any) -> BatchObject:
        """The batch as clients read it, in a status and with what is known of it."""
        times = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": status,
            "output_file_id": None,
            "error_file_id": None,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **dict.fromkeys((*times, "cancelling_at", "cancelled_at")),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": self.metadata,
            "model": self.model,
            **known,
        }


def problem(message: str, code: str) -> dict[str, Any]:
    """Why a batch failed as a whole, as clients read it."""
    return {"object": "list", "data": [{"code": code, "message": message, "param": None, "line": None}]}
