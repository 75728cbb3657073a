"""Sentence embeddings: find the paraphrase of a sentence among near misses.

Each fact (who, what, when, where) is told in two ways, by words and syntax of their own. A query
is right when its nearest neighbour by cosine among all second tellings is that of its own fact;
facts share most of their parts, so that the others are near too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from .metrics import Array
from .task import Feed, Places, Task

MODEL, TOKENIZER = "all_minilm_l6_v2.onnx", "all_minilm_l6_v2.tokenizer.json"
GET = "python tools/quant_bench/export_minilm.py DIR (it says what it needs)"
FACTS = 400
TOKENS = 32

PEOPLE = (("doctor", "physician"), ("teacher", "schoolmaster"), ("thief", "burglar"),
          ("child", "little kid"), ("lawyer", "attorney"), ("policeman", "cop"),
          ("farmer", "grower"), ("writer", "author"), ("sailor", "seaman"), ("boss", "manager"))  # fmt: skip
DEEDS = (("bought", "purchased"), ("repaired", "fixed"), ("sold", "got rid of"),
         ("found", "discovered"), ("painted", "put colour on"), ("broke", "smashed"),
         ("cleaned", "washed"), ("hid", "concealed"), ("borrowed", "took on loan"),
         ("photographed", "took a picture of"))  # fmt: skip
THINGS = (("car", "automobile"), ("bicycle", "bike"), ("boat", "small ship"), ("sofa", "couch"),
          ("television", "TV set"), ("letter", "written message"), ("coat", "jacket"),
          ("painting", "picture"), ("clock", "timepiece"), ("phone", "telephone"))  # fmt: skip
TIMES = (("yesterday", "the day before today"), ("last week", "a week ago"),
         ("this morning", "early today"), ("at midnight", "at twelve at night"),
         ("in summer", "during the warm season"), ("on Sunday", "at the weekend"))  # fmt: skip
SPOTS = (("in the garden", "in the yard"), ("near the station", "close to the railway stop"),
         ("at home", "in the house"), ("by the sea", "on the coast"),
         ("in the city", "downtown"), ("at the office", "at work"))  # fmt: skip
PARTS = (PEOPLE, DEEDS, THINGS, TIMES, SPOTS)
FIRST = ("The {0} {1} the {2} {4} {3}.", "{3}, the {0} {1} a {2} {4}.")
SECOND = ("It was {3} that some {0} {1} the {2}, {4}.", "What the {0} {1} {4} {3} was a {2}.")


def facts(count: int, seed: int) -> list[tuple[int, ...]]:
    """Different choices of one of each of the parts."""
    rng = np.random.default_rng(seed)
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < count:
        chosen[tuple(int(rng.integers(len(p))) for p in PARTS)] = None
    return list(chosen)


def told(fact: tuple[int, ...], way: int, rng: np.random.Generator) -> str:
    """A fact in its first or second telling."""
    forms = (FIRST, SECOND)[way]
    words = [part[i][way] for part, i in zip(PARTS, fact, strict=True)]
    return forms[rng.integers(len(forms))].format(*words)


class Tokenizer:
    """BERT's uncased WordPiece: lower case, punctuation apart, the longest known pieces first."""

    def __init__(self, path: Path) -> None:
        """`path` is a tokenizer.json."""
        vocabulary: dict[str, int] = json.loads(path.read_text("utf-8"))["model"]["vocab"]
        self.ids = vocabulary

    def pieces(self, word: str) -> list[int]:
        """The ids of a word's pieces."""
        found: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if mark + word[start:e] in self.ids), None)
            if end is None:
                return [self.ids["[UNK]"]]
            found.append(self.ids[mark + word[start:end]])
            start = end
        return found

    def encode(self, sentences: list[str]) -> dict[str, Array]:
        """The three inputs of a BERT, int64 [N,32]."""
        ids = np.zeros((len(sentences), TOKENS), np.int64)
        for row, sentence in zip(ids, sentences, strict=True):
            words = re.findall(r"\w+|[^\w\s]", sentence.lower())
            inner = [i for w in words for i in self.pieces(w)][: TOKENS - 2]
            whole = [self.ids["[CLS]"], *inner, self.ids["[SEP]"]]
            row[: len(whole)] = whole
        return {
            "input_ids": ids,
            "attention_mask": (ids != 0).astype(np.int64),
            "token_type_ids": np.zeros_like(ids),
        }


def pooled(hidden: Array, inputs: Feed) -> Array:
    """The mean over a sentence's tokens of [N,T,384], of length 1."""
    mask = inputs["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def nearest(embedded: Array) -> Array:
    """For each of the first half the nearest of the second half."""
    half = len(embedded) // 2
    return (embedded[:half] @ embedded[half:].T).argmax(-1)


def cosine(before: Array, after: Array) -> float:
    """The mean cosine of two sets of unit vectors."""
    norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return float(((before * after).sum(-1) / norms).mean())


def embeddings(places: Places) -> Task:
    """MiniLM-L6."""
    path = places.model(MODEL, GET)
    tokenizer = Tokenizer(places.model(TOKENIZER, GET))
    count = places.evaluation or FACTS
    known = facts(count + places.calibration, seed=9)
    rng = np.random.default_rng(10)
    asked, kept = ([told(f, way, rng) for f in known[:count]] for way in (0, 1))
    seen = [told(f, i % 2, rng) for i, f in enumerate(known[count:])]
    return Task(
        "all_minilm_l6_v2", "sentence encoder", "paraphrase found", path, tokenizer.encode(seen),
        tokenizer.encode(asked + kept), lambda e: (nearest(e) == np.arange(len(e) // 2)).astype(float),
        nearest, pooled, {"cosine": cosine}, transformer=True,
    )  # fmt: skip
