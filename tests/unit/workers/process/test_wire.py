"""Frames and what they carry survive the socket, and nothing else is taken for one."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.workers.process import wire
from parquetry.workers.process.messages import read_requests, read_results, request_frames, result_frames
from parquetry.workers.process.wire import Frame, FrameBuffer, WireError
from parquetry.workers.request import Completion, EncodeRequest, Encoding, GenerationRequest, SamplingParams


@given(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=50)), max_size=5), st.integers(1, 40))
def test_frames_survive_any_cutting(contents, step):
    frames = [Frame({"text": text}, payload) for text, payload in contents]
    data = b"".join(map(wire.pack_frame, frames))
    buffer = FrameBuffer()

    found = [frame for start in range(0, len(data), step) for frame in buffer.feed(data[start : start + step])]

    assert found == frames


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\0\0\0\2\0\0\0\0[]", b"\0\0\0\1\0\0\0\0{"])
def test_nonsense_is_refused(data):
    with pytest.raises(WireError):
        list(FrameBuffer().feed(data))


def test_an_oversized_frame_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr(wire, "MAX_PAYLOAD_BYTES", 10)

    with pytest.raises(WireError, match="larger than allowed"):
        wire.pack_frame(Frame({}, b"x" * 11))


def test_a_socket_in_a_deep_folder(tmp_path):
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)

    with wire.listen(folder / "s.sock") as listener, wire.dial(folder / "s.sock") as client:
        server, _ = listener.accept()
        with server:
            wire.send(client, Frame({"op": "hello"}))
            assert wire.receive(server, FrameBuffer()) == [Frame({"op": "hello"})]
        assert (folder / "s.sock").stat().st_mode & 0o777 == 0o600


def test_a_closed_connection_reads_as_none():
    left, right = socket.socketpair()
    right.close()
    with left:
        assert wire.receive(left, FrameBuffer()) is None


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def assert_same(left: object, right: object) -> None:
    assert type(left) is type(right)
    for name, value in vars(left).items():
        np.testing.assert_array_equal(getattr(right, name), value)


def test_generation_requests_survive():
    params = SamplingParams(max_new_tokens=3, stop=("é",), stop_ids=(1, 2), temperature=0.5, logprobs=True)
    requests = [
        GenerationRequest(id=2**40, prompt_ids=ids(1, 2), row=7, sample=1, params=params),
        GenerationRequest(id=0, prompt_ids=ids(), row=8, adapter="é"),
        GenerationRequest(id=1, prompt_ids=ids(3), row=9, params=params),
    ]

    (frame,) = request_frames(requests)

    assert len(frame.header["params"]) == 2
    for request, found in zip(requests, read_requests(frame), strict=True):
        assert_same(request, found)


def test_encode_requests_survive():
    requests = [EncodeRequest(id=1, token_ids=ids(1, 2)), EncodeRequest(id=2, token_ids=ids(3), token_type_ids=ids(1))]

    (frame,) = request_frames(requests)

    for request, found in zip(requests, read_requests(frame), strict=True):
        assert_same(request, found)


def test_results_survive():
    logprobs = np.array([-0.5], dtype=np.float32)
    completions = [
        Completion(id=1, output_ids=ids(5), finish_reason="stop", logprobs=logprobs),
        Completion(id=2, output_ids=ids(), finish_reason="error", error="no"),
    ]
    encodings = [
        Encoding(id=3, values=np.ones(4, np.float32)),
        Encoding(id=4, values=np.empty(0, np.float32), error="x"),
    ]

    for results in (completions, encodings):
        (frame,) = result_frames(results)
        for result, found in zip(results, read_results(frame), strict=True):
            assert_same(result, found)


def test_many_requests_travel_in_several_frames():
    requests = [EncodeRequest(id=i, token_ids=ids(i)) for i in range(3000)]

    frames = list(request_frames(requests))

    assert [request.id for frame in frames for request in read_requests(frame)] == list(range(3000))
    assert len(frames) == 3


def test_a_payload_that_is_no_arrow_batch_is_refused():
    with pytest.raises(WireError):
        read_results(Frame({"kind": "encoding"}, b"nonsense"))
