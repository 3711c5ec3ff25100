"""A signal that comes at any moment of a wait is taken."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import pytest

from parquetry.schemas.errors import ExitCode
from parquetry.tasks.node.stop_signal import StopSignal

NEVER_CAME = 3


def wait_with_a_signal_at(moment: int) -> int:
    """Send SIGTERM before the bytecode number `moment` of `wait`; returns this process's exit code."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object):
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == moment:
                signal.raise_signal(signal.SIGTERM)
        return trace

    with StopSignal() as stop:
        # Python 3.12 looks at this frame to learn that bytecodes are traced at all
        sys._getframe().f_trace_opcodes = True
        sys.settrace(trace)
        stop.wait(0.0)
        sys.settrace(None)
        if count < moment:
            return NEVER_CAME
        return 0 if stop.is_set and stop.wait(60.0) else 1


def exit_code_of(act, *arguments: object) -> int:
    """What `act` returns in a process of its own, which is killed after ten seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(act(*arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# the children do nothing that another thread could hold
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_signal_at_any_moment_of_a_wait_is_taken() -> None:
    moment, codes = 0, []
    while NEVER_CAME not in codes:
        moment += 1
        codes.append(exit_code_of(wait_with_a_signal_at, moment))
    assert moment > 10
    assert set(codes[:-1]) == {0}


def signal_twice() -> int:
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.wait(60.0)
        signal.raise_signal(signal.SIGTERM)
    return 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_second_signal_kills() -> None:
    assert exit_code_of(signal_twice) == ExitCode.INTERRUPTED


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert signal.getsignal(signal.SIGTERM) != before
        assert not stop.wait(0.01)
    assert signal.getsignal(signal.SIGTERM) is before
