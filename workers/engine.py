"""The boundary of every engine: requests are added, steps are taken, results come out as they finish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from parquetry.workers.request import Request, Result


class UnsupportedModel(ValueError):
    """An engine cannot serve this model; the message says why."""


class Engine(ABC):
    """One model on one device (or one group of devices).

    An engine never fails a batch for one row: a request it cannot serve comes back as a result with `error` set.
    It is driven by one thread, which alternates `add` and `step`.
    """

    #: whether `close` leaves the model as it was, so that another engine can be put on it
    gives_model_back = False
    #: what whoever loaded the engine adds to its provenance
    notes: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def add(self, requests: Sequence[Request]) -> None:
        """Take requests; never blocks on the device."""

    @property
    def is_hungry(self) -> bool:
        """Whether more requests would be of use now; an engine that chooses among all it is given always says so."""
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
        """Counters since start, such as prompt_tokens, output_tokens and padding_tokens."""
        return {}

    def close(self) -> None:
        """Give the model back and free what else the engine holds. It is of no use afterwards."""
        return
