"""`make bench`: every benchmark this machine can run. Each prints its own ratios."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ON_GPU = (
    ["generation.py"], ["end_to_end.py"], ["encoders.py"], ["quantization.py"], ["grammar.py"], ["scaling.py"],
    ["job_scaling.py"],
)  # fmt: skip
ON_CPU = (["demo.py"], ["encoders.py"])


def has_gpu() -> bool:
    """Asked in another process, so that this one holds no CUDA context while the benchmarks run."""
    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 1)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def main() -> int:
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.getenv("PYTHONPATH")]))
    failed = 0
    for script, *arguments in ON_GPU if has_gpu() else ON_CPU:
        print(f"== {script}", flush=True)
        done = subprocess.run([sys.executable, HERE / script, *arguments], env={**os.environ, "PYTHONPATH": path})
        failed += done.returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
