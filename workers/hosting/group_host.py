"""The engine of a group of devices, loaded once: its ranks serve the spec they were started for and no other."""

from __future__ import annotations

from pathlib import Path

from parquetry.schemas.errors import OtherWeightsError
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.group_loading import load_group
from parquetry.workers.parallel.ranks import Report
from parquetry.workers.process.pulse import Beat


class RankGroupHost:
    """Stands where a ModelHost stands for one device."""

    def __init__(self, folder: Path, report: Report, beat: Beat) -> None:
        self._folder, self._report, self._beat = folder, report, beat
        self._is_built = False

    def build(self, spec: EngineSpec) -> Engine:
        """Raises what `load_group` raises, and OtherWeightsError for a second spec."""
        if self._is_built:
            raise OtherWeightsError(reason="they are shared out over several devices")
        self._is_built = True
        return load_group(spec, self._folder, self._report, beat=self._beat)
