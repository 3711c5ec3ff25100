"""What clients are told of requests that are not finished."""

import numpy as np
import pytest

from parquetry.workers.process import telling
from parquetry.workers.process.messages import read_under_way, under_way_frame
from parquetry.workers.process.telling import TELL_S, Telling
from parquetry.workers.process.wire import Frame, WireError
from parquetry.workers.request import UnderWay


class Client:
    def __init__(self):
        self.told = []

    def send(self, frame):
        self.told.append(read_under_way(frame))


@pytest.fixture
def now(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(telling.time, "monotonic", lambda: clock[0])
    return clock


def test_each_client_is_told_of_its_own_under_its_own_ids(now):
    first, second = Client(), Client()
    found = [UnderWay(1, 50, 7), UnderWay(2, 20, 0), UnderWay(3, 5, 5)]
    owners = {1: (first, 11), 2: (second, 11), 4: (second, 12)}
    Telling().tell(lambda: found, owners)
    assert first.told == [[UnderWay(11, 50, 7)]]
    assert second.told == [[UnderWay(11, 20, 0)]]


def test_it_asks_the_engine_twice_a_second_at_most(now):
    asked, client, tells = [], Client(), Telling()

    def under_way():
        asked.append(now[0])
        return [UnderWay(1, 1, 1)]

    for _ in range(1000):
        tells.tell(under_way, {1: (client, 1)})
        now[0] += TELL_S / 100
    assert len(asked) == 10
    assert len(client.told) == 10


def test_the_last_request_of_a_client_is_taken_back(now):
    client, tells = Client(), Telling()
    tells.tell(lambda: [UnderWay(1, 9, 9)], {1: (client, 1)})
    now[0] += TELL_S
    tells.tell(list, {})
    now[0] += TELL_S
    tells.tell(list, {})
    assert client.told == [[UnderWay(1, 9, 9)], []]


def test_a_client_that_left_is_told_nothing(now):
    client, tells = Client(), Telling()
    tells.tell(lambda: [UnderWay(1, 9, 9)], {1: (client, 1)})
    tells.forget(client)
    now[0] += TELL_S
    tells.tell(list, {})
    assert len(client.told) == 1


def test_a_frame_is_24_bytes_a_request_and_nonsense_is_refused():
    found = [UnderWay(2**40, 7, 0), UnderWay(1, 0, 3)]
    frame = under_way_frame(found)
    assert (len(frame.payload), read_under_way(frame)) == (48, found)
    assert read_under_way(under_way_frame([])) == []
    with pytest.raises(WireError, match="half a request"):
        read_under_way(Frame({}, np.zeros(4, np.int64).tobytes()))
