"""One loaded model and the engine on top of it, which is exchanged when another job differs in nothing but options."""

from __future__ import annotations

import gc
import logging

import torch
from transformers import PreTrainedModel

from parquetry.schemas.errors import OtherWeightsError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import auto_class, load_engine, put_engine
from parquetry.workers.loading.model import load_model, switch_model
from parquetry.workers.process.pulse import SendPulse

log = logging.getLogger(__name__)


class ModelHost:
    """Makes engines for specs of one `weights_key`; the weights are read once."""

    def __init__(self, send_pulse: SendPulse) -> None:
        self._send_pulse = send_pulse
        self._engine: Engine | None = None
        #: the model, and the spec it was loaded for
        self._loaded: tuple[PreTrainedModel, EngineSpec] | None = None

    def build(self, spec: EngineSpec) -> Engine:
        """The engine of a spec; the engine before it must be idle, and is closed.

        Raises what `load_engine` raises, after which another spec may still be built, and OtherWeightsError when the
        weights at hand cannot serve this one.
        """
        if spec.model.backend == "onnxruntime":
            return load_engine(spec, send_pulse=self._send_pulse)
        checkpoint = Checkpoint.resolve(spec.model)
        if self._loaded is None:
            self._loaded = load_model(spec, checkpoint, auto_class(spec, checkpoint)), spec
        else:
            self._take_back()
            model, loaded = self._loaded
            switch_model(model, spec, loaded, checkpoint, auto_class(spec, checkpoint))
            log.info("attention %s on weights that were loaded before", spec.model.attention)
        self._engine = put_engine(self._loaded[0], spec, checkpoint, self._send_pulse)
        return self._engine

    def _take_back(self) -> None:
        """Free the engine's memory; the model is then as it was loaded."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if not engine.gives_model_back:
            raise OtherWeightsError(reason=f"{type(engine).__name__} changed them for good")
        engine.close()
        del engine
        if torch.cuda.is_available():
            gc.collect()
            # graphs compiled for the engine before would count against the limit of recompilations
            torch.compiler.reset()
            torch.cuda.empty_cache()
