"""Which errors of an engine its rows bring about, and which the machine."""

from __future__ import annotations

import pytest
import torch

from parquetry.schemas.errors import EngineStartError
from parquetry.workers.hosting.failure import repeats


@pytest.mark.parametrize(
    "error",
    [
        IndexError("index out of range in self"),
        RuntimeError("The size of tensor a (600) must match the size of tensor b (512)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        AssertionError(),
    ],
)
def test_rows_that_would_raise_it_again(error):
    assert repeats(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"),
        MemoryError(),
        OSError("no space left on device"),
        EngineStartError(reason="r"),
    ],
)
def test_faults_of_the_machine_that_may_pass(error):
    assert not repeats(error)
