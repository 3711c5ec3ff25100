"""Writes the locks of the images from pyproject.toml and constraints.txt: every package by version and by hash.

`make lock`; needs uv. The CPU image takes torch from torch's own index, so neither it nor its CUDA is in that lock.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {"gpu": ("gpu", "vision", "onnx-gpu"), "cpu": ("torch", "vision", "onnx")}
#: what comes with torch from its index, or belongs to cards
_OF_TORCH = re.compile(r"^(torch|triton|nvidia-|cuda-)")


def lock(image: str) -> str:
    """The requirements of one image with their hashes."""
    extras = [word for extra in EXTRAS[image] for word in ("--extra", extra)]
    command = ["uv", "pip", "compile", "pyproject.toml", *extras, "-c", "constraints.txt", "--generate-hashes", "-q"]
    command += ["--python-version", "3.12", "--python-platform", "x86_64-unknown-linux-gnu"]
    command += ["--no-annotate", "--no-header"]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    entries = re.split(r"(?m)^(?=\S)", text)
    return "".join(entry for entry in entries if image == "gpu" or not _OF_TORCH.match(entry))


def main() -> int:
    for image in EXTRAS:
        (Path(__file__).parent / f"{image}.txt").write_text(lock(image))
    return 0


if __name__ == "__main__":
    sys.exit(main())
