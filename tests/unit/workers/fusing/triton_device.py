"""Where the tests of Triton kernels run: on a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch


def require_triton() -> str:
    """The device to test on; to be called before anything imports Triton. Skips the module where there is no way."""
    if torch.cuda.is_available():
        pytest.importorskip("triton")
        return "cuda"
    # Triton reads it when it is imported, for its own library functions as well.
    os.environ.setdefault("TRITON_INTERPRET", "1")
    pytest.importorskip("triton", reason="this build of torch brings no Triton")
    if not converts_arrays():
        pytest.skip("Triton's interpreter does not run on this numpy", allow_module_level=True)
    return "cpu"


def converts_arrays() -> bool:
    """Whether numpy makes a number of an array of one element, as the interpreter of Triton 3.6 and older wants it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return int(np.ones(1)) == 1
        except TypeError:
            return False
