"""Loads an engine over a device group: tensor parallel where the model has a plan, else spread by layers."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import tokenizers
import torch
from transformers import AutoModelForCausalLM

from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine, UnsupportedModel
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.eligibility import why_not_parallel
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.hosting.generators import packed_options
from parquetry.workers.hosting.leading import LeadingEngine
from parquetry.workers.hosting.loaded_model import pulse_in_layers
from parquetry.workers.loading.devices.parallelism import check_parallel
from parquetry.workers.loading.model import load_model
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.together import RankGroupRunner
from parquetry.workers.parallel.group import SOLO, RankGroup, use_group
from parquetry.workers.parallel.ranks import Ranks, Report
from parquetry.workers.parallel.shares import take_over
from parquetry.workers.process.pulse import SendPulse

log = logging.getLogger(__name__)


def load_device_group(
    spec: EngineSpec, folder: Path, report: Report, *, send_pulse: SendPulse = lambda: None
) -> Engine:
    """The engine of a spec with several devices. This process becomes rank 0 and starts the others.

    `folder` is private to this process's user; `report` is called when the engine cannot go on because of another
    rank, and does not return. Raises what `load_engine` raises, and UnsupportedOptionError for what cannot be shared.
    """
    checkpoint = Checkpoint.resolve(spec.model)
    reason = why_not_parallel(spec, checkpoint)
    if reason is None:
        check_parallel(spec.model, checkpoint.config, len(spec.devices))
        try:
            return _lead(spec, folder / f"ranks-{os.getpid()}", report, send_pulse)
        except UnsupportedModel as error:
            reason = str(error)
        _free_share()
    log.warning(
        "%s is not computed by %d devices together: %s; its weights go to the first device that holds them, "
        "or are spread over all of them layer by layer",
        spec.model_path, len(spec.devices), reason,
    )  # fmt: skip
    engine = load_engine(spec.on(0), send_pulse=send_pulse)
    engine.provenance_notes = {**engine.provenance_notes, "why_not_tensor_parallel": reason}
    return engine


def _lead(spec: EngineSpec, store: Path, report: Report, send_pulse: SendPulse) -> Engine:
    store.unlink(missing_ok=True)
    ranks = Ranks(spec, store, report)
    try:
        engine = load_rank(spec, 0, store, send_pulse=send_pulse)
        ranks.wait_ready()
    except Exception as error:
        if isinstance(error, RuntimeError):
            ranks.settle()
        ranks.dismiss()
        raise
    assert isinstance(engine.runner, RankGroupRunner)
    engine.runner.step_sender = ranks.step_sender
    leading = LeadingEngine(engine, ranks)
    precision = LoadingNeeds(spec.model, Checkpoint.resolve(spec.model)).precision(engine.device.type)
    leading.provenance_notes = {"why_dtype": precision.reason}
    return leading


def _free_share() -> None:
    """Free this rank's share of the weights, before the whole model is loaded."""
    use_group(SOLO)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_rank(spec: EngineSpec, rank: int, store: Path, *, send_pulse: SendPulse) -> PackedEngine:
    """This rank's share of the engine, the same on every rank. Raises UnsupportedModel, on all of them or none."""
    mine = spec.on(rank)
    checkpoint = Checkpoint.resolve(mine.model)
    group = RankGroup.join(rank, len(spec.devices), mine.device, store)
    use_group(group)
    try:
        model = load_model(mine, checkpoint, AutoModelForCausalLM, shares=group.size)
        take_over(model)
        if mine.device == "cpu":
            pulse_in_layers(model, send_pulse)
        tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json"))
        return PackedEngine(model, tokenizer, checkpoint.eos_ids, packed_options(mine, checkpoint), group)
    except UnsupportedModel:
        group.leave()
        raise
