"""ONNX files as they lie on disk: what they take, and where they keep their weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parquetry.schemas.errors import BadInputError

if TYPE_CHECKING:
    import onnx

#: what our own exports write beside the file
FACTS_NAME = "export.json"


class UnsafeOnnxError(BadInputError):
    """The ONNX file {path} keeps weights in {location}, outside its folder; export it with its weights beside it."""


class UnreadableOnnxError(BadInputError):
    """The ONNX file {path} cannot be read: {reason}."""


@dataclass(frozen=True)
class OnnxFile:
    """A file whose external data, if any, is beside it."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> OnnxFile:
        """Raises UnsafeOnnxError when a tensor's data is read from anywhere but the file's own folder."""
        model = _read(path)
        for location in _external_locations(model):
            if not _is_beside(path, location):
                raise UnsafeOnnxError(path=path, location=location)
        stored = {tensor.name for tensor in model.graph.initializer}
        inputs = tuple(value.name for value in model.graph.input if value.name not in stored)
        return cls(path, inputs, tuple(value.name for value in model.graph.output))


def is_ours(file: Path) -> bool:
    """Whether we exported the file; then it serves the jobs of one export spec, and no other."""
    return (file.parent / FACTS_NAME).is_file()


def _read(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise UnreadableOnnxError(path=path, reason=str(error)[:200]) from None


def _external_locations(model: onnx.ModelProto) -> Iterator[str]:
    from onnx import TensorProto

    for tensor in (*_tensors(model.graph), *(found for of in model.functions for found in _of_nodes(of.node))):
        if tensor.data_location == TensorProto.EXTERNAL:
            yield next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Weights and constants, those of branches and loops included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """What nodes hold in their attributes; those of functions do as those of the graph."""
    for node in nodes:
        for attribute in node.attribute:
            yield from [attribute.t, *attribute.tensors]
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)
            for inner in [attribute.g, *attribute.graphs]:
                yield from _tensors(inner)


def _is_beside(path: Path, location: str) -> bool:
    """Whether `location` is a file in the folder of `path`, or one that a hub cache links to from there."""
    named = Path(location)
    if not location or named.is_absolute() or ".." in named.parts:
        return False
    folder = path.parent.resolve()
    target = (folder / named).resolve()
    # a hub snapshot is a folder of links into the blobs of the same repository
    blobs = [parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"]
    return any(target.is_relative_to(root) for root in (folder, *blobs))
