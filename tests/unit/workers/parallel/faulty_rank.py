"""A rank that does what PARQUETRY_TEST_FAULTS says, as in "layer:3,sampler:9,tokens:20", each at its step.

With "replay" among them it replays decode steps, as with captured graphs, from the first comparison on, and runs out of
memory once in a replayed step with token masks.
"""

from __future__ import annotations

import os
import sys

import torch

from parquetry.workers.hosting import rank_process
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.together import RankGroupRunner


def faults() -> dict[int, str]:
    pairs = (entry.split(":") for entry in os.environ["PARQUETRY_TEST_FAULTS"].split(",") if ":" in entry)
    return {int(step): kind for kind, step in pairs}


class EagerGraphs:
    """What captured decode steps are to a runner, on a device that has none."""

    def __init__(self, runner: RankGroupRunner) -> None:
        self.runner = runner
        self.num_padding_tokens = 0

    def takes(self, batch) -> bool:
        return not batch.chunks and len(batch.decode_lanes) > 0

    def ensure(self, batch, mode) -> None:
        pass

    def tokens(self, batch, mode):
        return self.runner.forward.tokens(self.runner.builder.build(batch), mode)

    def candidates(self, batch):
        return self.runner.forward.candidates(self.runner.builder.build(batch))


class Faults:
    """Counts the steps of a runner and breaks what is due."""

    def __init__(self, runner: RankGroupRunner) -> None:
        self.runner, self.due, self.now = runner, faults(), ""
        self.steps = 0
        sampler = runner.forward.sampler
        self.take, self.sample = runner.take, sampler.sample
        runner.take, sampler.sample = self.count, self.fail_in_sampler
        self.compare, self.has_masked_fault = runner.compare, "replay" in os.environ["PARQUETRY_TEST_FAULTS"]
        if self.has_masked_fault:
            runner.compare = self.compare_and_replay
        last = runner.forward.model.model.layers[-1]
        last.mlp.register_forward_pre_hook(self.fail_in_layer)

    def count(self, *args):
        self.steps += 1
        self.now = self.due.get(self.steps, "")
        result = self.take(*args)
        if self.now == "tokens":
            self.runner.forward.device_lanes.tokens[0] += 1
        return result

    def fail_in_layer(self, *_):
        if self.now == "layer":
            raise torch.OutOfMemoryError("CUDA out of memory")

    def fail_in_sampler(self, *args):
        if self.now == "sampler" or self.is_masked_fault_due(args):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.sample(*args)

    def is_masked_fault_due(self, args) -> bool:
        due = self.has_masked_fault and self.runner.graphs is not None and args[4] is not None
        self.has_masked_fault = self.has_masked_fault and not due
        return due

    def compare_and_replay(self):
        self.compare()
        self.runner.graphs = EagerGraphs(self.runner)


def follow_with_faults(runner: RankGroupRunner, step_receiver: object) -> None:
    Faults(runner)
    RankGroupRunner.__follow__(runner, step_receiver)


if __name__ == "__main__":
    assert PackedEngine
    RankGroupRunner.__follow__, RankGroupRunner.follow = RankGroupRunner.follow, follow_with_faults
    sys.exit(rank_process.main())
