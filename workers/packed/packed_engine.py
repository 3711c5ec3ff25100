"""The packed generation engine: stock transformers classes, one attention hook, continuous batching."""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections import Counter
from collections.abc import Collection
from collections.abc import Sequence as Many
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from parquetry.workers.engine import Engine, UnsupportedModel
from parquetry.workers.packed.attention.hook import IMPLEMENTATION
from parquetry.workers.packed.checks.attention_layers import find_attention_layers
from parquetry.workers.packed.components import Components, make_grammars, model_length, vocab_size
from parquetry.workers.packed.intake import Intake
from parquetry.workers.packed.long_rope import longest_row
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.runner import InFlight
from parquetry.workers.packed.sampling.sampler import SamplingMode, sampling_mode
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.scheduling.outputs import Ending, Outputs
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.packed.startup import runs_without
from parquetry.workers.parallel.group import SOLO, RankGroup
from parquetry.workers.request import Completion, GenerationRequest, Request, Result, UnderWay

log = logging.getLogger(__name__)

#: a token budget below this is not worth shrinking to
MIN_TOKEN_BUDGET = 64


class PackedEngine(Engine):
    """Generates with one causal language model on one device.

    `model` is loaded and in eval mode; it runs through the packed hook until `close`. `tokenizer` is needed for stop
    strings and grammars only. `eos_ids` end every sequence and are no part of its output. Raises UnsupportedModel
    when the hook cannot serve the model or its logits do not agree with the eager model.

    With a `group` the model holds this rank's share of the weights. Every rank makes the engine in the same way; then
    rank 0's is used as any other, and the runners of the others follow it.
    """

    gives_model_back = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None,
        eos_ids: Collection[int],
        options: PackedOptions | None = None,
        group: RankGroup = SOLO,
    ) -> None:
        if model.config._attn_implementation == IMPLEMENTATION:
            raise ValueError("another packed engine holds this model; close it first")
        start = time.perf_counter()
        self.options = options or PackedOptions()
        self.model = model
        self.group = group
        self.device: torch.device = model.device
        longest = self.options.max_model_len or model_length(model)
        self.max_model_len = longest_row(model.config.get_text_config(), longest)
        self._eos_ids = np.asarray(sorted(eos_ids), dtype=np.int32)
        self._sequences: dict[int, Sequence] = {}
        self._pending: tuple[InFlight, ...] = ()
        #: while it is being launched, which on a CPU is while it is being computed
        self._launching: Batch | None = None
        self._ready: list[Completion] = []
        self._counters: Counter[str] = Counter()
        on_cuda = self.device.type == "cuda"
        self.lookahead = on_cuda if self.options.lookahead is None else self.options.lookahead
        self.components = Components.build(model, tokenizer, self.options, group, self.max_model_len)
        self.runner, self.scheduler = self.components.runner, self.components.scheduler
        self.pool, self.lane_table = self.components.pool, self.components.lane_table
        self._grammars = make_grammars(tokenizer, model, self._eos_ids.tolist())
        self.intake = Intake(tokenizer, self._grammars, self.runner.forward.adapters, vocab_size(model))
        self.outputs = Outputs(self.lane_table, self._eos_ids)
        self.startup_s = time.perf_counter() - start
        self._log_start()

    def _log_start(self) -> None:
        log.info(
            "packed engine: attention %s, %d blocks of %d tokens, budget %d tokens, %d lanes, ready in %.1f s",
            self.components.backend.name, self.pool.num_blocks, self.pool.block_size, self.options.token_budget,
            self.options.num_lanes, self.startup_s,
        )  # fmt: skip

    @staticmethod
    def unsupported_reason(model: PreTrainedModel) -> str | None:
        """Why the hook cannot serve this model, or None. Runs one tiny forward pass."""
        try:
            find_attention_layers(model)
        except UnsupportedModel as error:
            return str(error)
        return None

    def add(self, requests: Many[Request]) -> None:
        """Queue generation requests. Raises ValueError for stop strings or a grammar without a tokenizer."""
        for request in requests:
            assert isinstance(request, GenerationRequest)
            taken = self.intake.take(request)
            if isinstance(taken, Completion):
                self._ready.append(taken)
                continue
            self._sequences[request.id] = taken
            self.scheduler.add(taken)

    def step(self) -> list[Result]:
        """Launch the next step, collect the one before it, return what finished."""
        launched = self._launch()
        collectable, self._pending = self._pending, launched
        if not self.lookahead:
            collectable, self._pending = launched, ()
        for in_flight in collectable:
            self._collect(in_flight)
        for sequence, reason in self.scheduler.failed:
            self._finish(sequence, sequence.fail(reason))
        self.scheduler.failed.clear()
        ready, self._ready = self._ready, []
        return list(ready)

    def _launch(self) -> tuple[InFlight, ...]:
        batch = self.scheduler.schedule()
        if batch is None:
            return ()
        for sequence in batch.admitted:
            self.lane_table.mode[sequence.lane] = sampling_mode(sequence.request.params)
        lanes = batch.sampled_lanes
        mode = SamplingMode(int(np.bitwise_or.reduce(self.lane_table.mode[lanes], initial=0)))
        allow = partial(self._allow, lanes) if mode & SamplingMode.GRAMMAR else None
        self._launching = batch
        try:
            in_flight = self.runner.launch(batch, self.lane_table.epoch[lanes], mode, allow)
        except torch.cuda.OutOfMemoryError:
            self._shrink()
            return ()
        finally:
            self._launching = None
        self._count(batch)
        return (in_flight,)

    def _allow(self, lanes: np.ndarray) -> Tensor:
        """Token masks of `lanes` (num_sampled,) on the host, which need the tokens of the step before."""
        self._collect_pending()
        sequences = [self.lane_table.sequences[lane] for lane in lanes.tolist()]
        return self._grammars.host_masks([None if sequence is None else sequence.grammar for sequence in sequences])

    def _collect_pending(self) -> None:
        for in_flight in self._pending:
            self._collect(in_flight)
        self._pending = ()

    def _count(self, batch: Batch) -> None:
        self._counters["steps"] += 1
        self._counters["computed_tokens"] += batch.num_tokens
        self._counters["decode_tokens"] += len(batch.decode_lanes)

    def _shrink(self) -> None:
        """After an out-of-memory in a launch: the steps before it are good."""
        self._collect_pending()
        self._start_again()

    def _start_again(self) -> None:
        """Halve the token budget and start every running sequence again from the tokens collected so far."""
        self._pending = ()
        budget = self.scheduler.token_budget // 2
        if budget < MIN_TOKEN_BUDGET:
            raise MemoryError(f"out of memory at a token budget of {2 * budget}, and it cannot shrink more")
        self.scheduler.preempt_all()
        self.scheduler.token_budget = budget
        self._counters["out_of_memory"] += 1
        torch.cuda.empty_cache()
        log.warning("out of memory: running rows start again with a token budget of %d", budget)

    def _collect(self, in_flight: InFlight) -> None:
        """Store the tokens of a step and finish what they end."""
        tokens, logprobs = in_flight.wait()
        if in_flight.is_void:
            self._start_again()
            return
        alive = self.lane_table.epoch[in_flight.lanes] == in_flight.epochs
        lanes, tokens = in_flight.lanes[alive], tokens[alive].astype(np.int32)
        for ending in self.outputs.append(lanes, tokens, None if logprobs is None else logprobs[alive]):
            self._complete(ending)

    def _complete(self, ending: Ending) -> None:
        completion = self.outputs.completion(ending)
        self._counters["prompt_tokens"] += ending.sequence.num_prompt_tokens
        self._counters["output_tokens"] += self.outputs.length(ending)
        self.scheduler.release(ending.sequence)
        self._finish(ending.sequence, completion)

    def _finish(self, sequence: Sequence, completion: Completion) -> None:
        del self._sequences[sequence.request.id]
        self._ready.append(completion)

    def cancel(self, ids: Collection[int]) -> None:
        """Forget requests; their lanes and blocks are free at once."""
        gone = set(ids)
        self._ready = [completion for completion in self._ready if completion.id not in gone]
        sequences = [self._sequences.pop(i) for i in gone if i in self._sequences]
        for sequence in sequences:
            if sequence.lane >= 0:
                self.scheduler.release(sequence)
        if sequences:
            self.scheduler.forget(sequences)

    @property
    def num_unfinished(self) -> int:
        return len(self._sequences) + len(self._ready)

    def describe(self) -> dict[str, str]:
        """Provenance of what this engine returns."""
        return {
            "backend": "packed",
            "attention": self.components.backend.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "block_size": str(self.pool.block_size),
            **({"kv_dtype": self.options.kv_dtype} if self.options.kv_dtype != "auto" else {}),
            **({"runs_without": runs_without(self.components.taken_back)} if self.components.taken_back else {}),
            **({"tensor_parallel": str(self.group.size)} if self.group.size > 1 else {}),
            **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        }

    def stats(self) -> dict[str, float]:
        """As EngineStats; `padding_tokens` are decodes that graph replays computed for nobody.

        Beside them `steps`, and `decode_tokens`: those of the computed tokens that were one new token of a sequence.
        """
        live: dict[str, float] = {
            "padding_tokens": self.runner.num_padding_tokens,
            "cached_tokens": self.scheduler.admission.num_cached_tokens,
            "preemptions": self.scheduler.num_preemptions,
            "running": len(self.scheduler.running),
            "waiting": len(self.scheduler.admission),
            "kv_use": 1.0 - self.pool.num_free / self.pool.num_blocks,
        }
        return {"prompt_tokens": 0, "output_tokens": 0, **self._counters, **live}

    def under_way(self) -> list[UnderWay]:
        lanes, running = self.lane_table, self.scheduler.running.items()
        computed, outputs = lanes.computed.tolist(), lanes.num_outputs.tolist()
        chunks = self._launching.chunks if self._launching is not None else ()
        for chunk in chunks:
            computed[chunk.lane] = chunk.start
        # twice a second in the loop that drives the device
        return [
            UnderWay(row.request.id, min(computed[lane], row.num_prompt_tokens), outputs[lane]) for lane, row in running
        ]

    def check_integrity(self) -> None:
        """Raise RuntimeError when blocks, lanes and sequences do not add up."""
        self.scheduler.check_integrity()

    def close(self) -> None:
        """Give the model back as it came and free the cache. The engine is of no use afterwards."""
        self.components.undo.close()
