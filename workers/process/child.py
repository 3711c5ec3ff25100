"""An engine process as its supervisor sees it: loading, ready, refused, or dead with a reason."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from functools import cached_property
from pathlib import Path

from parquetry.schemas.progress.states import EnginePhase
from parquetry.schemas.progress.status import EngineState, EngineStats
from parquetry.schemas.settings import cuda_visible_devices, settings
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.messages import SWITCH
from parquetry.workers.process.pulse import PulseReader
from parquetry.workers.process.start import module_command
from parquetry.workers.process.wire import Frame, dial, send

log = logging.getLogger(__name__)
_TAIL_BYTES = 4096
_TAIL_LINES = 3
_MAX_LOG_BYTES = 8 << 20
WEIGHT_FILES = ("*.safetensors", "*.gguf", "*.onnx", "onnx/*.onnx")


class EngineChild:
    """One engine process in a process group of its own, leashed to the thread that starts it."""

    def __init__(self, spec: EngineSpec, gpus: str | None, listens_at: Path, log: Path) -> None:
        self.spec = spec
        self.socket = listens_at
        self.is_ready = False
        #: why the engine of `spec` cannot be, while the weights stay loaded for another
        self.refusal: str | None = None
        #: whether `spec` needs the weights loaded anew
        self.is_outgrown = False
        #: what the engine of `spec` has counted, as of its last sign of life that told
        self.stats: EngineStats | None = None
        #: connection through which `switch` asks
        self._control: socket.socket | None = None
        self._log = log
        self._log_start = _trimmed_size(log)
        self._failure: dict[str, object] | None = None
        self._begun = self._last_sign = self._phase_begun = time.monotonic()
        self.phase = EnginePhase.STARTING
        self.pipe, writer = os.pipe()
        os.set_blocking(self.pipe, False)
        self._signs = PulseReader(self.pipe)
        self._process = self._start(writer, gpus)

    def _start(self, writer: int, gpus: str | None) -> subprocess.Popen:
        command = module_command("parquetry.workers.hosting.process", "--spec", self.spec.model_dump_json())
        command += ["--socket", str(self.socket), "--pulse", str(writer), "--parent", str(os.getpid())]
        try:
            with self._log.open("ab") as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(writer,),
                    process_group=0,
                    env=_environment(gpus),
                )
        finally:
            os.close(writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_refused(self) -> bool:
        """Whether the engine itself said that no other try would help."""
        return bool(self._failure and self._failure["permanent"])

    @property
    def would_repeat(self) -> bool:
        """Whether the engine itself said that the rows it computed would fail again."""
        return bool(self._failure and self._failure.get("repeats"))

    def holds_weights_of(self, spec: EngineSpec) -> bool:
        """Whether an engine of `spec` may use the weights that this process has loaded or is loading."""
        return self.spec.weights_key == spec.weights_key

    def switch(self, spec: EngineSpec) -> None:
        """Ask a process that is ready or has refused for another engine on its weights; it becomes ready again.

        Raises OSError when it does not listen.
        """
        if self._control is None:
            self._control = dial(self.socket)
        send(self._control, Frame({"op": SWITCH, "spec": spec.model_dump(mode="json")}))
        self.spec, self.is_ready, self.refusal, self._failure = spec, False, None, None
        self.stats = None
        self._begun = time.monotonic()
        self._enter(EnginePhase.LOADING)

    def read_pulse(self) -> bool:
        """Take in signs of life; False when the process has closed its end, that is, died."""
        for message in self._signs.read():
            self._take(message)
        return self._signs.is_open

    def _take(self, message: dict[str, object]) -> None:
        self._last_sign = time.monotonic()
        if message["state"] == "loading":
            self._enter(EnginePhase.LOADING)
        if message["state"] == "ready" and not self.is_ready:
            self.is_ready = True
            self._enter(EnginePhase.READY)
            log.info("engine %d is ready after %.1f s", self.pid, self._last_sign - self._begun)
        if "stats" in message and self.is_ready:
            self.stats = EngineStats.model_validate(message["stats"])
        self.is_outgrown = self.is_outgrown or message["state"] == "outgrown"
        if message["state"] in ("failed", "refused"):
            self._failure = message
        if message["state"] == "refused":
            self.refusal = str(message["reason"])
            self._enter(EnginePhase.IDLE)

    def _enter(self, phase: EnginePhase) -> None:
        self.phase, self._phase_begun = phase, time.monotonic()

    @property
    def state(self) -> EngineState:
        """What it is doing, for whoever watches."""
        model = self.spec.model
        return EngineState(
            phase=self.phase,
            seconds=round(time.monotonic() - self._phase_begun, 3),
            model=self.spec.model_path,
            backend=model.backend,
            quantization=model.quantization,
            attention=model.attention,
            weight_bytes=self._weight_bytes,
            problem=self.refusal,
        )

    @cached_property
    def _weight_bytes(self) -> int | None:
        """Of the model's weight files; what a hub has is not on this disk under its name."""
        files = [file for kind in WEIGHT_FILES for file in Path(self.spec.model_path).glob(kind)]
        return sum(file.stat().st_size for file in files) or None

    def overdue(self) -> str | None:
        """Why the process must be killed: it is silent, or loads too long. None while it is in time."""
        now, limits = time.monotonic(), settings()
        is_settled = self.is_ready or self.refusal is not None
        if is_settled and now - self._last_sign > limits.engine_stall_seconds:
            return f"it gave no sign of life for {limits.engine_stall_seconds:g} s"
        if not is_settled and now - self._begun > limits.engine_start_seconds:
            return f"it took longer than {limits.engine_start_seconds:g} s to load (PARQUETRY_ENGINE_START_SECONDS)"
        return None

    def end(self) -> str:
        """Kill the whole process group, reap it, and say why it ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        os.close(self.pipe)
        if self._control is not None:
            self._control.close()
        self.socket.unlink(missing_ok=True)
        return str(self._failure["reason"]) if self._failure else self._explain(code)

    def _explain(self, code: int) -> str:
        how = f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
        tail = self._last_lines()
        return f"{how}; its log ends: {tail}" if tail else how

    def _last_lines(self) -> str:
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(size - _TAIL_BYTES, min(self._log_start, size)))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return " | ".join(line.strip() for line in lines[-_TAIL_LINES:] if line.strip())


def _environment(gpus: str | None) -> dict[str, str]:
    """Ours, with only the engine's GPUs visible."""
    # idle OpenMP threads that spin for long starve the others of a shared machine; the default is about 300,000 turns
    spin = os.environ.get("GOMP_SPINCOUNT", "5000")
    chosen = {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus}
    return {**os.environ, "GOMP_SPINCOUNT": spin, **chosen}


def _trimmed_size(log: Path) -> int:
    """Bytes in the log, which is started anew when it has grown large."""
    size = log.stat().st_size if log.exists() else 0
    if size <= _MAX_LOG_BYTES:
        return size
    log.replace(log.with_suffix(".old.log"))
    return 0


def cuda_devices(device: str) -> str | None:
    """CUDA_VISIBLE_DEVICES for "cuda:1" or "cuda:0,1", counted among the GPUs this process sees; None for "cpu"."""
    kind, _, numbers = device.partition(":")
    if kind != "cuda":
        return None
    visible = cuda_visible_devices()
    names = numbers.split(",") if numbers else ["0"]
    return ",".join(visible[int(name)] if visible and name.isdecimal() else name for name in names)


def device_within(device: str) -> str:
    """What an engine calls its own device, with no other visible: "cuda:0,1" for "cuda:4,5"."""
    kind, _, numbers = device.partition(":")
    count = len(numbers.split(","))
    if kind == "cpu" and count == 1:
        return kind
    return f"{kind}:{','.join(map(str, range(count)))}"
