"""The settings of a process: from the environment, the operator's own file, and the tame ones of a working folder."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from parquetry.schemas.errors import WrongSettingError, redact
from parquetry.schemas.settings_files import folder_settings, operator_settings

#: progress is told so often where nothing else is set: two hundred shards in flight are fifty beats a second
PROGRESS_SECONDS = 4.0
OnnxProvider = Literal["auto", "cpu", "cuda", "tensorrt", "migraphx", "rocm"]


class SettingError(WrongSettingError):
    """The setting PARQUETRY_{key} is {value}: {reason}."""


class Settings(BaseSettings):
    """One field a setting: `PARQUETRY_LEASE_SECONDS=30`, or `lease_seconds = 30` in a file; see `settings_files`."""

    model_config = SettingsConfigDict(env_prefix="PARQUETRY_", frozen=True, extra="forbid", env_ignore_empty=True)

    #: redis://, rediss://, redis+socket:// or sentinel://; unset means `run` starts an embedded server
    broker_url: str | None = None
    #: prefix of every key, so that several environments may share one server
    env: str = Field("default", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    #: a shard is given to another worker when its lease was not renewed for this long
    lease_seconds: float = Field(60.0, gt=0)
    #: renewals, which also tell how far a shard is; when unset 4 s, or a quarter of the lease where that is less
    beat_seconds: float | None = Field(None, gt=0)
    #: how often lost permits and expired leases are repaired
    reconcile_seconds: float = Field(5.0, gt=0)
    #: lost leases after which a shard is quarantined
    max_attempts: int = Field(3, ge=1)
    #: a waiting job gets the next shard of its priority after this long, even when that costs a model load
    starvation_seconds: float = Field(300.0, gt=0)
    shards_in_flight: int = Field(2, ge=1, le=64)
    #: embedded server, engine sockets, converted models
    state_dir: Path = Field(default_factory=lambda: Path.home() / ".cache" / "parquetry")
    #: tokens one engine batch may hold; unset lets the engine choose
    token_budget: int | None = Field(None, gt=0)
    #: seconds an engine may take to load its model
    engine_start_seconds: float = Field(600.0, gt=0)
    #: seconds without a sign of life after which an engine is killed
    engine_stall_seconds: float = Field(60.0, gt=0)
    #: finished rows of a running shard are sealed so often, for another attempt to go on from; 0 seals none
    seal_seconds: float = Field(10.0, ge=0)
    #: seconds a draining worker gives its running shards
    drain_seconds: float = Field(20.0, ge=0)
    #: days the queue remembers a job after its end; outputs are kept
    keep_days: float = Field(30.0, gt=0)
    #: refuse inputs, outputs, models, adapters and images outside these roots; empty allows all
    allowed_roots: list[str] = []
    #: where rows may take images from: folders, s3:// and the like, http(s):// addresses; empty: the input's folders
    image_roots: list[str] = []
    #: bytes the images of one row may have together, as they are stored or fetched
    image_max_bytes: int = Field(20 << 20, gt=0, le=32 << 20)
    #: pixels the images of one row may have together; a small file may unfold into billions
    image_max_pixels: int = Field(64_000_000, gt=0)
    #: bytes one cell of the input may have; a larger one is null in its row, which is an error row
    max_cell_bytes: int = Field(64 << 20, gt=0)
    #: the same of a whole row, and of a line in a text file
    max_row_bytes: int = Field(256 << 20, gt=0)
    #: "module:function" that makes every engine here from its EngineSpec, instead of a model's own
    engine_factory: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    #: what ONNX Runtime computes on; auto is cuda on a GPU and cpu elsewhere. A build that lacks it refuses the job
    onnx_provider: OnnxProvider = "auto"
    #: share of the card that vLLM takes, weights included
    vllm_memory_fraction: float = Field(0.9, gt=0, le=1)
    #: operator's permission to run code that comes with a model
    trust_remote_code: bool = False
    #: opens the page to operators, and the other one to viewers, who change nothing
    dashboard_token: str | None = None
    dashboard_viewer_token: str | None = None
    #: hosts that webhooks may go to by https, where they have public addresses; `*.name` stands for all below it, and
    #: an origin such as http://10.0.0.5:8080 for that one wherever it lies
    webhook_hosts: list[str] = []
    #: what webhooks of a job's `notify` are signed with: any text, or whsec_ and base64 of the key
    webhook_secret: SecretStr | None = None
    #: shell command that is run here for what happens to any job, with the event as JSON on its input
    on_event: str | None = None
    #: for tests: faults at named steps, as in "publish:kill,commit:raise:2"
    failpoints: str = ""
    #: plain lines, or a JSON object a line with job, shard and attempt
    log_format: Literal["plain", "json"] = "plain"
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")

    @field_validator("broker_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        schemes = ("redis://", "rediss://", "redis+socket://", "sentinel://")
        if value is not None and not value.startswith(schemes):
            raise ValueError(f"a broker URL starts with one of {', '.join(schemes)}")
        return value

    @model_validator(mode="after")
    def _beats_fit_lease(self) -> Settings:
        if self.lease_seconds < 3 * self.beat_interval:
            raise ValueError(
                f"lease_seconds is {self.lease_seconds:g} but must be at least three beats of {self.beat_interval:g} s"
            )
        return self

    @property
    def beat_interval(self) -> float:
        """Seconds between two renewals of a lease."""
        if self.beat_seconds is not None:
            return self.beat_seconds
        return min(self.lease_seconds / 4, PROGRESS_SECONDS)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = (folder_settings(cls.model_fields), operator_settings())
        return (init_settings, env_settings, *(InitSettingsSource(settings_cls, init_kwargs=file) for file in files))


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and the files. Raises SettingError for the first that is off, SettingsFileError."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(step) for step in problem["loc"]) or "LEASE_SECONDS"
        reason = problem["msg"].removeprefix("Value error, ")
        raise SettingError(key=key.upper(), value=_shown(problem), reason=reason) from None


def _shown(problem: ErrorDetails) -> str:
    """The value that is off, without what it may hold of secrets."""
    value, name = problem["input"], str((problem["loc"] or ("",))[0])
    if name == "broker_url" and isinstance(value, str):
        return repr(redact(value))[:80]
    # what a check of several settings is given is all of them, secrets among them
    hidden = isinstance(value, dict) or any(word in name for word in ("secret", "token", "password"))
    return "set" if hidden else repr(value)[:80]


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once. A state folder that is not there yet is made here, for its owner alone."""
    found = load_settings()
    # logs, audit and caches tell of rows; who may not make the folder is told so by whatever writes there
    with suppress(OSError):
        found.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return found


def cuda_visible_devices() -> list[str] | None:
    """The names in CUDA_VISIBLE_DEVICES, or None when it is not set."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if value is None else [name for name in map(str.strip, value.split(",")) if name]
