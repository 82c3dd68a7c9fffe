"""Reads the weights out of an ONNX file without the onnx package.

An ONNX file is one protocol-buffer message. Only three of its parts matter here: the initialisers of the
graph (named arrays), and for each node its name, type, inputs and outputs, because exporters fold transposed
matrices into anonymous initialisers (`onnx::MatMul_1966`) that only the node's name still connects to a
layer.
Field numbers: onnx.proto3 (ModelProto.graph = 7; GraphProto.node = 1, initializer = 5; TensorProto.dims = 1,
data_type = 2, float_data = 4, name = 8, raw_data = 9; NodeProto.input = 1, output = 2, name = 3, op_type =
4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

FLOAT32 = 1


class OnnxError(ValueError):
    """The bytes are not an ONNX file this reader understands."""


@dataclass(frozen=True)
class Tensor:
    """An initialiser: its shape and its little-endian float32 bytes (a view of the file, not a copy)."""

    name: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True)
class Node:
    """A node of the graph."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The nodes in file order and the float32 initialisers by name (others are left out)."""

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise OnnxError("truncated or damaged: a number runs past the end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message; the value is a number (varint) or bytes (everything else)."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise OnnxError(f"not a protocol-buffer message (wire type {wire})")
        if at + length > len(data):
            raise OnnxError("truncated: a field runs past the end")
        yield number, data[at : at + length]
        at += length


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise OnnxError("a number where bytes were expected")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8", "replace")


def _numbers(value: int | memoryview) -> list[int]:
    """A repeated integer field: one element, or several packed into bytes."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _tensor(message: memoryview) -> Tensor | None:
    shape: list[int] = []
    name, kind, raw, floats = "", 0, memoryview(b""), bytearray()
    for number, value in _fields(message):
        if number == 1:
            shape += _numbers(value)
        elif number == 2:
            kind = _numbers(value)[0]
        elif number == 4:
            floats += _bytes(value)
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _bytes(value)
    if kind != FLOAT32:
        return None
    data = raw if len(raw) else memoryview(bytes(floats))
    size = 4
    for extent in shape:
        size *= extent
    if len(data) != size:
        raise OnnxError(
            f"initialiser {name!r} of shape {tuple(shape)} has {len(data)} bytes, expected {size}"
        )
    return Tensor(name, tuple(shape), data)


def _node(message: memoryview) -> Node:
    inputs, outputs, name, operator = [], [], "", ""
    for number, value in _fields(message):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 3:
            name = _text(value)
        elif number == 4:
            operator = _text(value)
    return Node(name, operator, tuple(inputs), tuple(outputs))


def read_graph(data: bytes | memoryview) -> Graph:
    """The graph of an ONNX model. Raises OnnxError for bytes that are not one or are cut short."""
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    graphs = [_bytes(value) for number, value in _fields(memoryview(data)) if number == 7]
    if len(graphs) != 1:
        raise OnnxError(f"expected one graph, found {len(graphs)}")
    for number, value in _fields(graphs[0]):
        if number == 1:
            nodes.append(_node(_bytes(value)))
        elif number == 5 and (tensor := _tensor(_bytes(value))) is not None:
            tensors[tensor.name] = tensor
    return Graph(tuple(nodes), tensors)
