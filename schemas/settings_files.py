"""The two files of settings: the operator's own, and that of the working folder, which widens no trust.

Whoever gets a user to work in a folder, such as a checkout, writes the second.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from parquetry.schemas.errors import WrongSettingError

FOLDER_FILE = Path("parquetry.toml")
#: settings that `parquetry.toml` of a working folder may have: how fast and how patient, never what is allowed
OF_FOLDER = frozenset(
    {
        *("env", "lease_seconds", "beat_seconds", "reconcile_seconds", "max_attempts", "starvation_seconds"),
        *("shards_in_flight", "token_budget", "engine_start_seconds", "engine_stall_seconds", "drain_seconds"),
        *("seal_seconds", "keep_days", "onnx_provider", "vllm_memory_fraction", "log_level", "log_format"),
    }
)
_OTHERS_MAY_WRITE = 0o022


class SettingsFileError(WrongSettingError):
    """The settings file {path} cannot be used: {reason}."""


def operator_file() -> Path:
    """PARQUETRY_CONFIG, else parquetry/parquetry.toml in the user's folder of configuration."""
    if named := os.environ.get("PARQUETRY_CONFIG"):
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(home) / "parquetry" / "parquetry.toml"


def operator_settings() -> dict[str, Any]:
    """Every setting, from a file that nobody but the operator can write. Raises SettingsFileError."""
    file = operator_file()
    if not file.is_file():
        return {}
    found = file.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_MAY_WRITE:
        reason = "others own it or may write to it; it must be yours or root's alone: chmod go-w"
        raise SettingsFileError(path=file, reason=reason)
    return _read(file)


def folder_settings(known: Collection[str]) -> dict[str, Any]:
    """Settings of OF_FOLDER and no others that are `known`. Raises SettingsFileError."""
    data = _read(FOLDER_FILE) if FOLDER_FILE.is_file() else {}
    widening = next((name for name in data if name in known and name not in OF_FOLDER), None)
    if widening is not None:
        reason = f"a file in the working folder may not set {widening}, since anybody may have written it; set"
        reason += f" PARQUETRY_{widening.upper()}, or put it into your own file {operator_file()}"
        raise SettingsFileError(path=FOLDER_FILE.absolute(), reason=reason)
    return data


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsFileError(path=file.absolute(), reason=str(error)[:200]) from None
