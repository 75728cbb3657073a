# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Damage to the bytes of a model, as broken disks, downloads and attackers do it."""

from __future__ import annotations

import random
from collections.abc import Callable

Damage = Callable[[random.Random, bytearray], str]


def mutate(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Damaged bytes, and what was done."""
    damaged = bytearray(data)
    done: list[str] = []
    for _ in range(rng.choice([1, 1, 2, 4])):
        damage = rng.choice(DAMAGES)
        done.append(f"{damage.__name__}({damage(rng, damaged) if damaged else ''})")
    return bytes(damaged), "; ".join(done)


def truncate(rng: random.Random, data: bytearray) -> str:
    """Cut the end off."""
    del data[rng.choice([rng.randrange(len(data)), len(data) - 1, 1, 0]) :]
    return str(len(data))


def flip_bits(rng: random.Random, data: bytearray) -> str:
    """Flip some bits."""
    places = [_place(rng, data) for _ in range(rng.choice([1, 2, 8, 64]))]
    for at in places:
        data[at] ^= 1 << rng.randrange(8)
    return ",".join(map(str, places[:8]))


def splice(rng: random.Random, data: bytearray) -> str:
    """Copy, move or drop a chunk."""
    a, length = _place(rng, data), rng.choice([1, 2, 5, 40, 1000])
    chunk = bytes(data[a : a + length])
    if rng.random() < 0.5:
        del data[a : a + length]
    if rng.random() < 0.7:
        b = _place(rng, data) if data else 0
        data[b:b] = chunk
    return f"{length} at {a}"


def grow_varint(rng: random.Random, data: bytearray) -> str:
    """Put a long or endless varint somewhere."""
    at = _place(rng, data)
    data[at : at + rng.choice([0, 1, 2])] = rng.choice(
        [b"\xff" * 9 + b"\x01", b"\xff" * 12, b"\x80" * 5 + b"\x00", b"\xff\xff\xff\xff\x07"]
    )
    return str(at)


def overwrite(rng: random.Random, data: bytearray) -> str:
    """Fill a stretch with one byte, or with noise."""
    at, length = _place(rng, data), rng.choice([1, 4, 30, 300])
    fill = rng.choice([b"\0", b"\xff", b"\x0a", b"\x7f", None])
    data[at : at + length] = fill * length if fill else rng.randbytes(length)
    return f"{length} at {at}"


def change_small(rng: random.Random, data: bytearray) -> str:
    """Change a small byte (a tag, length or number) a little."""
    small = [i for i in (_place(rng, data) for _ in range(50)) if data[i] < 64]
    at = small[0] if small else 0
    data[at] = max(0, data[at] + rng.choice([-1, 1, 2, -2]))
    return str(at)


def nest(rng: random.Random, data: bytearray) -> str:
    """Append a node whose attribute has a graph, whose node has an attribute, and so on."""
    depth = rng.choice([20, 90, 120, 3000])
    inner = b""
    for number in (1, 5, 6) * depth:  # graph.node, node.attribute, attribute.g
        inner = bytes([number << 3 | 2]) + _varint(len(inner)) + inner
    data += b"\x3a" + _varint(len(inner)) + inner  # model.graph
    return str(depth)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _place(rng: random.Random, data: bytearray) -> int:
    """Anywhere, but more often near the ends, where the structure is and the weights aren't."""
    near = min(len(data), 2000)
    return rng.choice(
        [rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)]
    )


DAMAGES: tuple[Damage, ...] = (
    truncate, flip_bits, flip_bits, splice, splice, grow_varint, overwrite, change_small,
    change_small, nest,
)  # fmt: skip
