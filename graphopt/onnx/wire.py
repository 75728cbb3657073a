"""A scan of the protobuf wire format: parse a model without its weights.

Every tensor's `raw_data` of 1 KB and more is cut out of the message and replaced by external-data
entries that name the model itself (`SELF`), so that one mechanism, external data, serves the
tensors of single files too and no byte of a weight is copied. Format: a message is a sequence of
(field * 8 + wire type) varints, each followed by a varint (0), 8 bytes (1), a length and so many
bytes (2) or 4 bytes (5); https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.errors import InputError

SELF = "<self>"  # the external location that stands for the model's own bytes
LARGE = 1024  # bytes: smaller tensors stay in the message
MAX_DEPTH = 100  # nested subgraphs; protobuf itself reads no deeper

# The messages that hold tensors: message -> {field: the message in it}. Numbers from onnx.proto.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
_DATA_TYPE, _FLOAT_DATA, _RAW_DATA, _EXTERNAL, _LOCATION = 2, 4, 9, 13, 14  # of TensorProto
_FLOAT = 1  # TensorProto.FLOAT, whose packed float_data has the bytes of raw_data

Pieces = list[bytes | memoryview]
Field = tuple[int, int, int, int, int]  # number, wire type, start of its tag, payload begin, end


def strip(view: memoryview, label: str) -> bytes:
    """Give the serialised model with its large tensors replaced by references to `view`.

    Args:
        view: a serialised ModelProto, mapped or in memory.
        label: the model's name in messages.

    Raises:
        InputError: the bytes are no protobuf message.
    """
    pieces = Stripper(view, label).message(0, len(view), "model", 0)
    return bytes(view) if pieces is None else b"".join(pieces)


class Stripper:
    """The scan's state: the bytes, and what to call them."""

    def __init__(self, view: memoryview, label: str) -> None:
        """See strip."""
        self.view, self.label = view, label

    def message(self, start: int, end: int, kind: str, depth: int) -> Pieces | None:
        """The message at start..end with its large tensors cut out; None: there are none."""
        if depth > MAX_DEPTH:
            raise InputError(f"{self.label}: subgraphs are nested deeper than {MAX_DEPTH} levels")
        inside, pieces, kept = _INSIDE[kind], Pieces(), start
        for number, wire, at, begin, stop in self.fields(start, end):
            inner = inside.get(number)
            if inner is None or wire != 2 or stop - begin < LARGE:
                continue
            deeper = depth + (inner == "graph")
            cut = (
                self.tensor(begin, stop)
                if inner == "tensor"
                else self.message(begin, stop, inner, deeper)
            )
            if cut is None:
                continue
            head = varint(number << 3 | 2) + varint(sum(map(len, cut)))
            pieces += [self.view[kept:at], head, *cut]
            kept = stop
        return [*pieces, self.view[kept:end]] if pieces else None

    def tensor(self, start: int, end: int) -> Pieces | None:
        """The tensor without its data; None where it is small or stored in another way."""
        raw: Field | None = None
        dtype = 0
        for field in self.fields(start, end):
            number, wire, _, begin, _ = field
            if number == _DATA_TYPE and wire == 0:
                dtype, _ = self.varint(begin, end)
            elif number in (_EXTERNAL, _LOCATION) or (raw and number in (_RAW_DATA, _FLOAT_DATA)):
                return None
            elif wire == 2 and number in (_RAW_DATA, _FLOAT_DATA):
                raw = field
        if raw is None or raw[4] - raw[3] < LARGE or (raw[0] == _FLOAT_DATA and dtype != _FLOAT):
            return None
        _, _, at, begin, stop = raw
        return [self.view[start:at], self.view[stop:end], reference(begin, stop - begin)]

    def fields(self, at: int, end: int) -> Iterator[Field]:
        """The fields of the message at..end, in order."""
        view = self.view
        while at < end:
            start, tag = at, view[at]
            if tag < 128:
                at += 1
            else:
                tag, at = self.varint(at, end)
            wire, begin = tag & 7, at
            if wire == 2:
                length, begin = self.varint(at, end)
                at = begin + length
            elif wire == 0:
                _, at = self.varint(at, end)
            elif wire == 1:
                at += 8
            elif wire == 5:
                at += 4
            else:
                raise self.damaged(start)
            if at > end or tag < 8:
                raise self.damaged(start)
            yield tag >> 3, wire, start, begin, at

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at `at`, and where it ends."""
        value = shift = 0
        for i in range(at, min(end, at + 10)):
            byte = self.view[i]
            value |= (byte & 127) << shift
            if byte < 128:
                return value, i + 1
            shift += 7
        raise self.damaged(at)

    def damaged(self, at: int) -> InputError:
        """The complaint."""
        if bytes(self.view[:8]) == b"version ":
            return InputError(f"{self.label}: is a Git LFS pointer; run `git lfs pull`")
        return InputError(
            f"{self.label}: not an ONNX model, or a damaged one: byte {at} of {len(self.view)} "
            "begins no field"
        )


def varint(value: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def reference(offset: int, length: int) -> bytes:
    """TensorProto fields saying that the data is at `offset` of the model itself."""
    pairs = {"location": SELF, "offset": str(offset), "length": str(length)}
    entries = (field(1, k.encode()) + field(2, v.encode()) for k, v in pairs.items())
    external = b"".join(field(_EXTERNAL, e) for e in entries)
    return external + varint(_LOCATION << 3) + varint(1)
