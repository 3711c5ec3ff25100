"""The ranks of one engine: processes that hold a share of the weights each and take every step together."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from parquetry.schemas.settings import settings

#: into one tensor, under the name that this torch calls it by
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


class RanksDivergedError(RuntimeError):
    """The ranks of an engine no longer compute the same thing; the message says what and which."""


@dataclass(frozen=True)
class Collective:
    """One exchange between the ranks within a forward pass, as it repeats from step to step."""

    #: "sum" or "gather"
    kind: str
    #: whether it has a row for every token of the step, or for every sampled one
    is_per_token: bool
    #: elements a row
    width: int
    dtype: torch.dtype


@dataclass
class RankGroup:
    """This process as one of the ranks. Every method is called by all of them, in the same order.

    `forward` is what one forward pass exchanges, recorded once by `learn`. A rank that cannot finish a pass drains
    what is left of it, so that the others do not wait for ever.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    forward: list[Collective] = field(default_factory=list)
    num_done: int = 0
    _exchanged: list[tuple[str, tuple[int, ...], torch.dtype]] | None = None

    @classmethod
    def join(cls, rank: int, size: int, device: str, store: Path) -> RankGroup:
        """Meet the others over the file `store`, which all of them name; returns when all are there."""
        loopback = "lo" if sys.platform == "linux" else "lo0"
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, loopback)
        # transformers takes the number of its card from here
        os.environ["LOCAL_RANK"] = str(rank)
        own = torch.device(device)
        if own.type == "cuda":
            torch.cuda.set_device(own)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo",
            # public, though torch's annotations do not say so
            store=dist.FileStore(str(store), size),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=settings().engine_start_seconds),
        )
        return cls(rank, size, own)

    def leave(self) -> None:
        """Leave the group for good."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def sum_in_place(self, x: Tensor) -> Tensor:
        """`x` becomes the sum over the ranks, bit for bit the same on all of them."""
        self._note("sum", x)
        if x.numel():
            dist.all_reduce(x)
        return x

    def gather(self, x: Tensor, width: int) -> Tensor:
        """x (..., its share of width), the shares split as torch.chunk does; returns (..., width)."""
        share = -(-width // self.size)
        if x.shape[-1] < share:
            x = torch.nn.functional.pad(x, (0, share - x.shape[-1]))
        self._note("gather", x)
        shares = x.new_empty(self.size, *x.shape)
        if x.numel():
            _all_gather(shares.view(-1, *x.shape[1:]), x.contiguous())
        return shares.movedim(0, -2).flatten(-2)[..., :width]

    def all_agree(self, ok: bool) -> bool:
        """Whether `ok` is true on every rank."""
        return bool(self.minimum(int(ok)))

    def minimum(self, number: int) -> int:
        """The least over the ranks."""
        if self.size == 1:
            return number
        return min(self._exchange(number))

    def require_equal(self, x: Tensor, what: str) -> None:
        """Raise RanksDivergedError unless every rank holds the very same bits in `x`."""
        if self.size == 1:
            return
        data = x.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()
        digests = self._exchange(int.from_bytes(blake2b(data, digest_size=7).digest(), "little"))
        other = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if other:
            names = ", ".join(map(str, other))
            raise RanksDivergedError(f"{what} of rank 0 and of rank {names} differ, though they must be equal bits")

    def _exchange(self, number: int) -> list[int]:
        """The number of every rank, through the host."""
        numbers = torch.empty(self.size, dtype=torch.int64)
        dist.all_gather(list(numbers.split(1)), torch.tensor([number], dtype=torch.int64))
        return numbers.tolist()

    def begin(self, *, is_replayed: bool) -> None:
        """Start a pass. The exchanges of a replayed graph happen on the device, all or none, and count as done."""
        self.num_done = len(self.forward) if is_replayed else 0

    def learn(self) -> None:
        """Record the exchanges of the next forward pass, until `learned`."""
        self._exchanged = []

    def learned(self, num_tokens: int) -> None:
        """Keep what was recorded: exchanges of `num_tokens` rows are per token, the others per sampled row."""
        exchanged, self._exchanged = self._exchanged or [], None
        self.forward = []
        for kind, shape, dtype in exchanged:
            rows, width = torch.Size(shape[:-1]).numel(), shape[-1]
            self.forward.append(Collective(kind, rows == num_tokens, width, dtype))

    def drain(self, num_tokens: int, num_sampled: int) -> None:
        """Exchange zeros for what is left of a pass: the sums are of no use, but no other rank waits for this one."""
        for one in self.forward[self.num_done :]:
            rows = num_tokens if one.is_per_token else num_sampled
            scratch = torch.zeros(rows, one.width, dtype=one.dtype, device=self.device)
            self.sum_in_place(scratch) if one.kind == "sum" else self.gather(scratch, one.width * self.size)

    def count_failed(self, *, failed: bool) -> Tensor:
        """(1,) int32: how many ranks failed in the pass."""
        flag = torch.full((1,), int(failed), dtype=torch.int32, device=self.device)
        dist.all_reduce(flag)
        return flag

    def _note(self, kind: str, x: Tensor) -> None:
        self.num_done += 1
        if self._exchanged is not None:
            self._exchanged.append((kind, tuple(x.shape), x.dtype))


#: an engine on one device
SOLO = RankGroup()


class _Current:
    """The group of this process, for operators that take tensors alone. A process is one rank of one engine."""

    group: RankGroup = SOLO


def current_group() -> RankGroup:
    """The group that `use_group` named last."""
    return _Current.group


def use_group(group: RankGroup) -> None:
    """Make sharded layers exchange through `group`."""
    _Current.group = group
