"""Items made in a thread, one in advance."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from parquetry.workers.shards.ahead import Ahead


def test_items_come_in_order_and_one_is_made_in_advance() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    ahead = Ahead(items())
    assert ahead.is_ready(10)
    assert made == [0]
    assert [ahead.take() for _ in range(5)] == [0, 1, 2, None, None]
    ahead.close()


def test_an_error_comes_in_the_place_of_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second one")

    ahead = Ahead(items())
    assert ahead.take() == 1
    with pytest.raises(ValueError, match="the second one"):
        ahead.take()
    ahead.close()


def test_closing_waits_for_the_item_that_is_being_made_and_makes_no_other() -> None:
    may_go_on, made = threading.Event(), []

    def items() -> Iterator[int]:
        for number in range(3):
            may_go_on.wait(10)
            made.append(number)
            yield number

    ahead = Ahead(items())
    assert not ahead.is_ready(0.01)
    threading.Timer(0.05, may_go_on.set).start()
    ahead.close()
    assert made == [0]
