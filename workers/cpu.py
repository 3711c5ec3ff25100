"""What this machine's processor multiplies well, by the list of its instructions. Loads no torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: beginnings of the lines that list instructions: x86, Arm
_LISTS = ("flags", "Features")
#: instructions that multiply bfloat16, as Linux names them on x86 and on Arm
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
#: instructions that add up products of 8-bit numbers in 32 bits
_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
_X86 = ("x86_64", "AMD64", "i686", "i386")


@dataclass(frozen=True)
class Cpu:
    """A processor by its architecture and its instructions, None where the system does not list them."""

    machine: str
    instructions: frozenset[str] | None = None

    @property
    def bf16(self) -> str | None:
        """The instruction that multiplies bfloat16, None without one; it may still be out of a library's reach."""
        return next((name for name in _BF16 if name in (self.instructions or ())), None)

    @property
    def vnni(self) -> str | None:
        """The instruction that adds up 8-bit products in 32 bits, None without one."""
        return next((name for name in _VNNI if name in (self.instructions or ())), None)

    @property
    def saturates_int8(self) -> bool:
        """Whether sums of two products of 8-bit numbers are cut off at 16 bits: on x86 without VNNI."""
        return self.machine in _X86 and self.vnni is None

    @property
    def summary(self) -> str:
        """One line for people: the dtype that `auto` takes on it, and the width of ONNX's int8 weights."""
        if self.instructions is None:
            bf16 = "instructions not listed, so bfloat16 is timed as a model is loaded"
        else:
            bf16 = f"bfloat16 by {self.bf16}" if self.bf16 else "no bfloat16, so dtype auto is float32"
        int8 = (
            "ONNX int8 with weights of 7 bits (no VNNI)" if self.saturates_int8 else "ONNX int8 with weights of 8 bits"
        )
        return f"{self.machine}: {bf16}; {int8}"


@lru_cache(maxsize=1)
def this_cpu() -> Cpu:
    """The processor this process runs on."""
    return Cpu(platform.machine(), _instructions(_CPUINFO))


def _instructions(file: Path) -> frozenset[str] | None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith(_LISTS)), None)
    return None if found is None else frozenset(found.partition(":")[2].split())
