"""What a packed engine is made of, built in the order in which one part needs another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer
from torch import nn

from parquetry.workers.grammar.grammars import Grammars
from parquetry.workers.packed.attention.backend_choice import choose_backend
from parquetry.workers.packed.attention.hook import IMPLEMENTATION, AttentionBackend
from parquetry.workers.packed.attention.kv_cache import LayerShape, attach_caches, detach_caches
from parquetry.workers.packed.checks.hooked_layers import probe_layers
from parquetry.workers.packed.checks.paged_check import check_engine
from parquetry.workers.packed.checks.sharing_check import can_share
from parquetry.workers.packed.memory import plan_num_blocks
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.runner import ModelRunner
from parquetry.workers.packed.sampling.sampler import Sampler
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.scheduler import Scheduler
from parquetry.workers.packed.scheduling.sharing import MIN_ROWS, PrefixGroups
from parquetry.workers.packed.startup import capture_graphs, speed_up
from parquetry.workers.packed.step_tensors import DeviceLanes
from parquetry.workers.packed.together import GroupRunner, unanimous
from parquetry.workers.packed.waves import full_step
from parquetry.workers.parallel.group import RankGroup

#: blocks of the small cache that the self check runs on
NUM_PROBE_BLOCKS = 16


@dataclass
class EngineParts:
    """The model under the packed hook, what runs it, and the books of what it runs."""

    layers: list[LayerShape]
    backend: AttentionBackend
    runner: ModelRunner
    pool: BlockPool
    lanes: LaneTable
    scheduler: Scheduler
    #: gives the model back as it came
    restore: Callable[[], None]

    @classmethod
    def build(cls, model: nn.Module, options: PackedOptions, group: RankGroup, max_model_len: int) -> EngineParts:
        """Raises UnsupportedModel when the hook cannot serve the model."""
        with unanimous(group):
            layers = probe_layers(model)
        backend = choose_backend(options.attention, model.device)
        unhook = hook(model, layers)
        block_size = options.block_size or backend.block_size
        max_blocks = -(-max_model_len // block_size)
        device_lanes = DeviceLanes(options.num_lanes, max_blocks, block_size, model.device)
        runner = make_runner(model, backend, options, group, device_lanes)
        num_blocks, slow_down = make_ready(runner, layers, options, max_model_len)
        pool, lanes = BlockPool(num_blocks, block_size), LaneTable(options.num_lanes, max_blocks)
        scheduler = make_scheduler(runner, layers, options, max_model_len, pool, lanes)

        def restore() -> None:
            slow_down()
            unhook()

        return cls(layers, backend, runner, pool, lanes, scheduler, restore)


def hook(model: nn.Module, layers: Sequence[LayerShape]) -> Callable[[], None]:
    """Make the model's attention ours; returns what gives it back, without the caches."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)

    def unhook() -> None:
        detach_caches(layers)
        model.set_attn_implementation(implementation)

    return unhook


def make_runner(
    model: nn.Module, backend: AttentionBackend, options: PackedOptions, group: RankGroup, lanes: DeviceLanes
) -> ModelRunner:
    """The runner of one device, or of this rank."""
    sampler = Sampler(options.num_lanes, vocab_size(model), model.device)
    runner_type = ModelRunner if group.size == 1 else GroupRunner
    return runner_type(model, backend, lanes, sampler, group)


def make_ready(
    runner: ModelRunner, layers: Sequence[LayerShape], options: PackedOptions, max_model_len: int
) -> tuple[int, Callable[[], None]]:
    """Prove the runner on a small cache, speed it up, then size the cache by what is left.

    Returns the number of blocks, and what undoes the speeding up.
    """
    model, block_size = runner.model, runner.lanes.block_size
    attach_caches(layers, NUM_PROBE_BLOCKS, block_size, model.device)
    prove(runner)
    undo = speed_up(model, runner, layers, options)
    num_blocks = plan_num_blocks(layers, runner, options, max_model_len)
    attach_caches(layers, num_blocks, block_size, model.device)
    runner.graphs = capture_graphs(runner, options, num_blocks)

    def slow_down() -> None:
        runner.graphs = None
        undo()

    return num_blocks, slow_down


def prove(runner: ModelRunner) -> None:
    """Raise UnsupportedModel, on every rank, unless the paged model has the logits of the eager one."""
    with unanimous(runner.group):
        check_engine(runner.model, runner)
        if isinstance(runner, GroupRunner):
            runner.learn_exchanges()
            runner.prove()


def make_scheduler(
    runner: ModelRunner, layers: Sequence[LayerShape], options: PackedOptions, max_model_len: int,
    pool: BlockPool, lanes: LaneTable,
) -> Scheduler:  # fmt: skip
    """The scheduler, which shares prefixes where they can be read once."""
    device, backend = runner.lanes.device, runner.backend
    shares = options.prefix_cache and options.num_lanes >= MIN_ROWS
    shares = shares and can_share(backend, layers[0], pool.block_size, device)
    return Scheduler(
        pool,
        lanes,
        token_budget=options.token_budget,
        max_model_len=max_model_len,
        full_step=full_step(backend, device, runner.model.config.get_text_config().hidden_size),
        prefix_cache=options.prefix_cache,
        groups=PrefixGroups(options.num_lanes, pool.block_size) if shares else None,
    )


def make_grammars(tokenizer: Tokenizer | None, model: nn.Module, eos_ids: list[int]) -> Grammars:
    """The grammars of the requests, compiled once each."""
    return Grammars(tokenizer, vocab_size(model), eos_ids, model.device)


def vocab_size(model: nn.Module) -> int:
    """Logits a token."""
    return model.config.get_text_config().vocab_size


def model_length(model: nn.Module) -> int:
    """The longest sequence the model takes; 8192 when its config does not say."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 8192)
