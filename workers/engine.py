"""The interface of every engine: add requests, step, take results as they finish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from parquetry.workers.request import Request, Result, UnderWay


class UnsupportedModel(ValueError):
    """An engine cannot serve this model; the message says why."""


class WrongAnswers(UnsupportedModel):
    """An engine was tried on this model, and computes something else than the stock one."""


class Engine(ABC):
    """One model on one device (or one device group).

    An engine never fails a batch for one row: a request it cannot serve comes back as a result with `error` set.
    It is driven by one thread, which alternates `add` and `step`.
    """

    #: whether `close` leaves the model as it was, so that another engine can be put on it
    gives_model_back = False
    #: what whoever loaded the engine adds to its provenance
    provenance_notes: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def add(self, requests: Sequence[Request]) -> None:
        """Take requests; never blocks on the device."""

    @property
    def is_hungry(self) -> bool:
        """Whether the engine wants more requests now; one that plans over all it has been given always does."""
        return True

    @abstractmethod
    def step(self) -> list[Result]:
        """Do one unit of device work and return what has finished, in any order."""

    @abstractmethod
    def cancel(self, ids: Collection[int]) -> None:
        """Forget these requests; no result for them is returned from now on. Unknown ids are ignored."""

    @property
    @abstractmethod
    def num_unfinished(self) -> int:
        """Requests added and neither returned nor cancelled."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Provenance: backend, attention, dtype, quantization and versions, as short strings."""

    def stats(self) -> dict[str, float]:
        """Counters since start, and what is held now; cheap, and asked about once a second.

        EngineStats tells what each name means, so far as it is shown; an engine may leave out names and add others.
        """
        return {}

    def under_way(self) -> Iterable[UnderWay]:
        """How far the requests are that it has begun and not answered; asked about twice a second, also in a step."""
        return ()

    def close(self) -> None:
        """Restore the model and free everything else. The engine cannot be used afterwards."""
        return
