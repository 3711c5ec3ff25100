"""A program that answers as nvidia-smi does, for machines that have no GPU or others than a test wants."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = """#!{python} -IS
import sys

asked = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
gpus = {gpus!r}
if "-L" in asked:
    for number, (fields, instances) in enumerate(gpus):
        print(f"GPU {{number}}: {{fields['name']}} (UUID: {{fields['uuid']}})")
        for index, (profile, uuid) in enumerate(instances):
            print(f"  MIG {{profile:<10}}  Device {{index:>2}}: (UUID: {{uuid}})")
elif asked.get("--format") == "csv,noheader,nounits":
    for fields, _ in gpus:
        print(", ".join(fields[name] for name in asked["--query-gpu"].split(",")))
else:
    sys.exit(f"unexpected: {{sys.argv}}")
"""


@dataclass(frozen=True)
class FakeGpu:
    """One GPU of the fake driver."""

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-5d5ba0d6"
    capability: str = "9.0"
    mebibytes: str = "81559"
    #: profile -> UUID of its MIG instances
    instances: dict[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, str]:
        """By the driver's names."""
        return {
            "name": self.name,
            "uuid": self.uuid,
            "compute_cap": self.capability,
            "memory.total": self.mebibytes,
            "driver_version": "570.1",
        }


def write_driver(folder: Path, *gpus: FakeGpu) -> Path:
    """An nvidia-smi in `folder` that knows these GPUs."""
    known = [(gpu.fields, list(gpu.instances.items())) for gpu in gpus]
    return write_program(folder, PROGRAM.format(python=sys.executable, gpus=known))


def write_program(folder: Path, text: str) -> Path:
    """An nvidia-smi in `folder` that does as `text` says."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(text)
    program.chmod(0o755)
    return program
