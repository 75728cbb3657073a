"""Symbols to bits by asymmetric numeral systems (Duda 2013, arXiv 1311.2540), the range variant.

A state x in [2^16, 2^32) takes in a symbol of frequency f (of 4096) that starts at c by
x -> (x // f) * 4096 + x % f + c, after the low 16 bits have been written where it would grow too
large. The decoder does the reverse, so the encoder begins at the end. Four states take turns, which
hides the latency of a processor; blocks are independent, which lets numpy encode all of them at
once.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.entropy import BLOCK
from graphopt.ir.types import Array

PARTS = 4096  # what frequencies add up to: 2^12
LANES = 4  # states that take turns: symbol i goes through state i % 4
LOW = 1 << 16  # the least state, and the first
TOGETHER = 512  # blocks that are encoded side by side, in some 60 MB


def frequencies(counts: Array) -> Array:
    """Counts of symbols (all above 0, at most PARTS of them) as int64 that add up to PARTS.

    Each is at least 1. What rounding leaves over is given, or taken, where it costs least bits: one
    after another, at the symbol whose ideal frequency is furthest away.
    """
    ideal = counts * (PARTS / counts.sum())
    found = np.maximum(np.rint(ideal).astype(np.int64), 1)
    while (rest := PARTS - int(found.sum())) != 0:
        step = 1 if rest > 0 else -1
        able = found + step >= 1
        change = counts * np.log2((found + step) / found, where=able, out=np.zeros(len(found)))
        found[np.argmax(np.where(able, change, -np.inf))] += step
    return found


def encode(symbols: Array, freq: Array) -> bytes:
    """Blocks of symbols, one after another.

    A block: uint32 how many words; uint32 states [LANES]; uint16 words in the order in which a
    decoder needs them. The last block's symbols are filled up to a multiple of LANES.

    Args:
        symbols: uint8 [n], below len(freq).
        freq: as `frequencies` gives them.
    """
    whole = len(symbols) // BLOCK
    blocks, rest = np.split(symbols, [whole * BLOCK])
    blocks = blocks.reshape(whole, BLOCK // LANES, LANES)
    rest = np.concatenate([rest, np.full(-len(rest) % LANES, np.argmax(freq), np.uint8)])
    parts = list[bytes]()
    for i in range(0, whole, TOGETHER):
        parts += _blocks(blocks[i : i + TOGETHER], freq)
    if len(rest):
        parts += _blocks(rest.reshape(1, -1, LANES), freq)
    return b"".join(parts)


def _blocks(symbols: Array, freq: Array) -> list[bytes]:
    """Encode blocks [blocks, steps, LANES] of symbols side by side."""
    blocks, steps, _ = symbols.shape
    start = np.cumsum(freq) - freq
    turns = np.ascontiguousarray(symbols.transpose(1, 0, 2)).reshape(steps, -1)
    words = np.zeros(turns.shape, np.uint16)
    written = np.zeros(turns.shape, np.bool_)
    state = np.full(turns.shape[1], LOW, np.uint64)
    widths, starts = freq.astype(np.uint64), start.astype(np.uint64)
    for i in range(steps - 1, -1, -1):
        f = widths[turns[i]]
        full = state >= f << np.uint64(20)
        words[i], written[i] = state, full
        state = np.where(full, state >> np.uint64(16), state)
        quotient = state // f
        state = quotient * np.uint64(PARTS) + (state - quotient * f) + starts[turns[i]]
    states = state.astype("<u4").reshape(blocks, LANES)
    by_block = (a.reshape(steps, blocks, LANES).transpose(1, 0, 2) for a in (words, written))
    found = list[bytes]()
    for head, block, mask in zip(states, *by_block, strict=True):
        kept = block[mask].astype("<u2")
        found += [np.uint32(len(kept)).astype("<u4").tobytes(), head.tobytes(), kept.tobytes()]
    return found
