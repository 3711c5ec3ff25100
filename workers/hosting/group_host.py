"""The engine of a device group, loaded once: its ranks serve the spec they were started for and no other."""

from __future__ import annotations

from pathlib import Path

from parquetry.schemas.errors import OtherWeightsError
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.group_loading import load_device_group
from parquetry.workers.parallel.ranks import Report
from parquetry.workers.process.pulse import SendPulse


class RankGroupHost:
    """For a device group what ModelHost is for one device."""

    def __init__(self, folder: Path, report: Report, send_pulse: SendPulse) -> None:
        self._folder, self._report, self._send_pulse = folder, report, send_pulse
        self._is_built = False

    def build(self, spec: EngineSpec) -> Engine:
        """Raises what `load_device_group` raises, and OtherWeightsError for a second spec."""
        if self._is_built:
            raise OtherWeightsError(reason="they are shared out over several devices")
        self._is_built = True
        return load_device_group(spec, self._folder, self._report, send_pulse=self._send_pulse)
