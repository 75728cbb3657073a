"""Shape arithmetic that several kinds share."""

from __future__ import annotations

from graphopt.ir.types import UNKNOWN, Dim, TensorType, ValueType, add, floordiv, same

Shape = tuple[Dim, ...] | None
Ints = tuple[int, ...]


def tensors(*types: ValueType | None) -> list[TensorType]:
    """The present operands, all of which must be tensors (ValueError otherwise)."""
    present = [t for t in types if t is not None]
    found = [t for t in present if isinstance(t, TensorType)]
    if len(found) != len(present):
        raise ValueError("an operand is not a tensor")
    return found


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """One dimension of a numpy broadcast."""
    if a == 1 or same(a, b):
        return b
    if b == 1:
        return a
    if isinstance(a, int) and isinstance(b, int):
        raise ValueError(f"sizes {a} and {b} do not broadcast")
    if isinstance(a, int) or isinstance(b, int):
        return a if isinstance(a, int) else b  # the other is 1 or the same
    return UNKNOWN


def broadcast(*shapes: Shape) -> Shape:
    """The shape of a numpy broadcast (ValueError where there is none)."""
    out: tuple[Dim, ...] = ()
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(out), len(shape))
        left = (1,) * (rank - len(out)) + out
        right = (1,) * (rank - len(shape)) + shape
        out = tuple(broadcast_dim(a, b) for a, b in zip(left, right, strict=True))
    return out


def window(size: Dim, kernel: Dim, stride: int, pad: int, dilation: int = 1) -> Dim:
    """How many windows fit: floor((size + pad - dilation*(kernel-1) - 1) / stride) + 1."""
    if not isinstance(kernel, int):
        return UNKNOWN
    reach = add(size, pad - dilation * (kernel - 1) - 1)
    if isinstance(reach, int) and reach < 0:
        raise ValueError(f"a window of {kernel} does not fit into {size} with padding {pad}")
    return add(floordiv(reach, stride), 1)


def check_windows(n: int, strides: Ints, pads: Ints, dilations: Ints) -> None:
    """Raise ValueError unless the attributes say something sensible of n spatial axes."""
    if (len(strides), len(pads), len(dilations)) != (n, 2 * n, n):
        raise ValueError(f"strides, pads or dilations are not those of {n} spatial axes")
    if any(v < 1 for v in (*strides, *dilations)):
        raise ValueError("a stride or dilation is below 1")


def normal_axis(axis: int, rank: int) -> int:
    """A non-negative axis (ValueError where it is out of range)."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def agree(a: Dim, b: Dim, what: str) -> None:
    """Raise ValueError where two dimensions are known to differ."""
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise ValueError(f"{what}: {a} is not {b}")
