"""What an error of an engine means: its sentence, and whether another try would raise it again."""

from __future__ import annotations

import re

from parquetry.schemas.errors import ParquetryError, PermanentError, RetryableError

#: errors of the host or of a library that is looked for, which no row brings about
_OF_THE_MACHINE = (OSError, MemoryError, ImportError, RetryableError)
#: how the libraries of a device begin their complaints
_OF_THE_DEVICE = re.compile(r"\b(CUDA|HIP|NCCL|cu(BLAS|DNN|FFT|SPARSE)|CUBLAS|CUDNN)\b")
#: what a device says of an index beyond its table, which the same rows would ask for on any other
_ASSERTION = "device-side assert"


def sentence(error: BaseException) -> str:
    """The error on one line, fit to be shown to whoever submitted the job."""
    first_line = str(error).strip().partition("\n")[0][:500]
    if isinstance(error, ParquetryError):
        return first_line
    if _is_out_of_memory(error):
        return f"the device ran out of memory; choose a smaller model or a quantization ({first_line})"
    return f"{type(error).__name__}: {first_line}"


def is_permanent(error: BaseException) -> bool:
    """Whether a second try to load would fail the same way: bad files and options would, a full device may not."""
    if isinstance(error, ParquetryError):
        return isinstance(error, PermanentError)
    return isinstance(error, ValueError | TypeError | KeyError | AttributeError | ImportError | NotImplementedError)


def repeats(error: BaseException) -> bool:
    """Whether the same rows would raise it again, on this device or another; a fault of the machine may pass."""
    text = str(error)
    if _is_out_of_memory(error) or isinstance(error, _OF_THE_MACHINE):
        return False
    return _ASSERTION in text or not _OF_THE_DEVICE.search(text)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
