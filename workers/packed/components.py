"""What a packed engine is made of, built in the order in which one part needs another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from parquetry.workers.grammar.grammars import Grammars
from parquetry.workers.loading.adapters.adapter_bank import AdapterBank
from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.backend_choice import choose_backend
from parquetry.workers.packed.attention.hook import IMPLEMENTATION
from parquetry.workers.packed.attention.kv_cache import LayerShape, attach_caches, detach_caches, stored_as
from parquetry.workers.packed.attention.windows import short_windows
from parquetry.workers.packed.checks.attention_layers import find_attention_layers
from parquetry.workers.packed.checks.kv_check import require_stored
from parquetry.workers.packed.checks.paged_check import PagedCheck
from parquetry.workers.packed.checks.sharing_check import can_share
from parquetry.workers.packed.forward import Forward
from parquetry.workers.packed.long_rope import RowLengths, choose_by_row, short_switch, switch_of
from parquetry.workers.packed.memory import fit_num_blocks
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.runner import ModelRunner
from parquetry.workers.packed.sampling.sampler import Sampler
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.scheduler import Scheduler
from parquetry.workers.packed.scheduling.sharing import MIN_ROWS, PrefixGroups
from parquetry.workers.packed.startup import Changes, capture_graphs, keep_latents, speed_up
from parquetry.workers.packed.step_tensors import DeviceLanes
from parquetry.workers.packed.together import RankGroupRunner, unanimous
from parquetry.workers.packed.waves import full_step
from parquetry.workers.parallel.group import RankGroup


@dataclass
class Components:
    """The model under the packed hook, what runs it, and the books of what it runs."""

    layers: list[LayerShape]
    backend: AttentionBackend
    runner: ModelRunner
    pool: BlockPool
    lane_table: LaneTable
    scheduler: Scheduler
    #: what the packed model was held against, as it came and with its last adapter
    checks: list[PagedCheck]
    #: what would have been faster, and why the engine runs without it
    taken_back: Mapping[str, str]
    #: gives the model back as it came
    undo: ExitStack

    @classmethod
    def build(
        cls,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None,
        options: PackedOptions,
        group: RankGroup,
        max_model_len: int,
    ) -> Components:
        """Raises UnsupportedModel when the hook cannot serve the model, which then is as it came."""
        with unanimous(group):
            layers = find_attention_layers(model)
            make_checks = partial(
                PagedCheck.of, model, layers, tokenizer, AdapterBank.of(model), options.num_lanes, max_model_len
            )
            checks = make_checks()
            is_outgrown = outgrown(model, layers, checks)
            with shortened_limits(model, layers):
                short_checks = make_checks() if is_outgrown else []
        with ExitStack() as undo:
            hook(model, layers, undo)
            lengths = choose_by_row(model, undo)
            backend = choose_backend(options.attention, model.device)
            runner = make_runner(model, backend, lengths, options, group, max_model_len)
            attach_small_caches(runner, layers, checks)
            with shortened_limits(model, layers):
                check_packed(runner, short_checks)
            check_packed(runner, checks)
            changes = Changes(runner.forward, checks, undo)
            layers = keep_latents(changes, layers, partial(attach_small_caches, runner, checks=checks))
            num_blocks = make_ready(runner, layers, changes, checks, options, max_model_len, undo)
            max_blocks = runner.forward.device_lanes.tables.shape[1]
            pool = BlockPool(num_blocks, runner.forward.device_lanes.block_size)
            lane_table = LaneTable(options.num_lanes, max_blocks)
            scheduler = make_scheduler(runner, layers, options, max_model_len, pool, lane_table)
            return cls(layers, backend, runner, pool, lane_table, scheduler, checks, changes.taken_back, undo.pop_all())


def hook(model: PreTrainedModel, layers: Sequence[LayerShape], undo: ExitStack) -> None:
    """Make the model's attention ours, without the caches."""
    undo.callback(model.set_attn_implementation, model.config._attn_implementation)
    undo.callback(detach_caches, layers)
    model.set_attn_implementation(IMPLEMENTATION)


def make_runner(
    model: PreTrainedModel, backend: AttentionBackend, lengths: RowLengths, options: PackedOptions, group: RankGroup,
    max_model_len: int,
) -> ModelRunner:  # fmt: skip
    """The runner of one device, or of this rank."""
    block_size = options.block_size or backend.block_size
    lanes = DeviceLanes(options.num_lanes, -(-max_model_len // block_size), block_size, model.device)
    sampler = Sampler(options.num_lanes, vocab_size(model), model.device)
    runner_type = ModelRunner if group.size == 1 else RankGroupRunner
    return runner_type(Forward(model, backend, lanes, sampler, lengths, group))


def make_ready(
    runner: ModelRunner, layers: Sequence[LayerShape], changes: Changes, checks: Sequence[PagedCheck],
    options: PackedOptions, max_model_len: int, undo: ExitStack,
) -> int:  # fmt: skip
    """Speed the runner up on a small cache, then size the cache by what is left; returns its blocks."""
    forward = runner.forward
    model, block_size = forward.model, forward.device_lanes.block_size
    speed_up(changes, model, layers, options, is_shared=forward.group.size > 1)
    if options.kv_dtype != "auto":
        # not before: what layers give is then no longer theirs within rounding
        layers = stored_as(layers, options.kv_dtype)
        with unanimous(forward.group):
            require_stored(forward.backend, layers, block_size, model.device)
        attach_small_caches(runner, layers, checks)
    num_blocks = fit_num_blocks(layers, runner, options, max_model_len)
    attach_caches(layers, num_blocks, block_size, model.device)
    runner.graphs = capture_graphs(changes, forward, options, num_blocks)
    undo.callback(setattr, runner, "graphs", None)
    return num_blocks


def outgrown(model: PreTrainedModel, layers: Sequence[LayerShape], checks: Sequence[PagedCheck]) -> bool:
    """Whether windows are longer than every prompt of the checks, which then say nothing of them; or rows short."""
    longest = max(len(tokens) for check in checks for tokens in check.prompts)
    windows: list[int] = [getattr(layer.module, "packed_sliding_window", 0) for layer in layers]
    limits = [*windows, switch_of(model.config.get_text_config()) or 0]
    return any(limit >= longest for limit in limits)


@contextmanager
def shortened_limits(model: PreTrainedModel, layers: Sequence[LayerShape]) -> Iterator[None]:
    """Windows are short, and rows long, from a few tokens on."""
    with short_windows(model, layers), short_switch(model.config.get_text_config()):
        yield


def attach_small_caches(runner: ModelRunner, layers: Sequence[LayerShape], checks: Sequence[PagedCheck]) -> None:
    """Give the layers what the checks need."""
    lanes = runner.forward.device_lanes
    num_blocks = max(check.num_blocks(lanes.block_size) for check in checks)
    attach_caches(layers, num_blocks, lanes.block_size, lanes.device)


def check_packed(runner: ModelRunner, checks: Sequence[PagedCheck]) -> None:
    """Raise UnsupportedModel, on every rank, unless the packed model computes what the stock one does."""
    with unanimous(runner.forward.group):
        if isinstance(runner, RankGroupRunner):
            runner.learn_exchanges()
        for check in checks:
            check.require(runner.forward, "packed layers differ from the stock model")


def make_scheduler(
    runner: ModelRunner, layers: Sequence[LayerShape], options: PackedOptions, max_model_len: int,
    pool: BlockPool, lane_table: LaneTable,
) -> Scheduler:  # fmt: skip
    """The scheduler, which shares prefixes where they can be read once."""
    forward = runner.forward
    device, backend = forward.device_lanes.device, forward.backend
    # latents are so few that nothing is gained by reading them once
    shares = options.prefix_cache and options.num_lanes >= MIN_ROWS and not layers[0].values_in_keys
    shares = shares and can_share(backend, layers[0], pool.block_size, device)
    return Scheduler(
        pool,
        lane_table,
        token_budget=options.token_budget,
        max_model_len=max_model_len,
        full_step=full_step(backend, device, forward.model.config.get_text_config().hidden_size),
        prefix_cache=options.prefix_cache,
        prefix_groups=PrefixGroups(options.num_lanes, pool.block_size) if shares else None,
        rope_switch=switch_of(forward.model.config.get_text_config()),
    )


def make_grammars(tokenizer: Tokenizer | None, model: PreTrainedModel, eos_ids: list[int]) -> Grammars:
    """The grammars of the requests, compiled once each."""
    return Grammars(tokenizer, vocab_size(model), eos_ids, model.device)


def vocab_size(model: PreTrainedModel) -> int:
    """Logits a token."""
    return model.config.get_text_config().vocab_size


def model_length(model: PreTrainedModel) -> int:
    """The longest sequence the model takes; 8192 when its config does not say."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 8192)
