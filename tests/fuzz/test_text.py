# pyright: basic
# Mutations put anything anywhere: the point is that types do not hold.
"""Damaged text: IR and pipelines parse, or say where they don't."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt.api
from graphopt.errors import GraphoptError, ParseError, VerifyError
from graphopt.ir.verify import verify
from graphopt.passes import PIPELINES
from graphopt.pipeline import parse_pipeline
from tests.fuzz import models
from tests.fuzz.edit import NASTY

TOKEN = re.compile(r"\w+|\s+|.", re.DOTALL)
ODD = ("%x", "@main", "{", "}", "(", ")", "[", "]", "->", "=", ",", ":", '"', "dense", "f32", "?",
       "return", "\0", "é", "nan", "inf", "-", "1e999", "0x", "//", "#", "module", "const")  # fmt: skip


@cache
def texts() -> tuple[str, ...]:
    goldens = sorted((models.ROOT / "tests" / "golden").rglob("*.gir"))
    given = (p.read_text("utf-8").split("// expect:")[0] for p in goldens)
    built = (graphopt.api.load(m().SerializeToString()) for m in models.SMALL.values())
    return (*given, *(m.to_text() for m in built))


def damaged(rng: random.Random) -> str:
    tokens = TOKEN.findall(rng.choice(texts()))
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(tokens))
        match rng.randrange(7):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, rng.choice(tokens))
            case 2:
                tokens[at] = rng.choice(ODD)
            case 3:
                tokens[at] = str(rng.choice(NASTY))
            case 4:
                other = rng.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 5:
                numbers = [i for i, t in enumerate(tokens) if t.isdigit()] or [at]
                tokens[rng.choice(numbers)] = str(rng.choice(NASTY))
            case _:
                del tokens[at : at + rng.choice([2, 20, len(tokens)])]
        tokens = tokens or [" "]
    return "".join(tokens)


def check(text: str) -> str:
    """Parse and verify, print and parse again."""
    try:
        module = graphopt.api.parse(text)
        verify(module)
    except (ParseError, VerifyError) as why:
        lines = str(why).splitlines()
        assert len(lines) == (3 if isinstance(why, ParseError) else 1)
        return type(why).__name__
    return "ok"


@pytest.mark.parametrize("seed", range(8))
def test_damaged_ir(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        check(damaged(rng))


@pytest.mark.slow
def test_much_damaged_ir() -> None:
    rng = random.Random(1)
    found = {check(damaged(rng)) for _ in range(10_000)}
    assert found == {"ok", "ParseError", "VerifyError"}


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_no_module(text: str) -> None:
    assert check(text) != "ok"


PIECES = st.sampled_from([
    "fold", "fuse", "cse", "default", "int8", "prune", "layout", "group", ",", "{", "}", "=", "0.3", "-1",
    "limit", "true", "[", "]", "(", ")", '"', "'x'", " ", "\n", "1e400", "99999999999999999999",
    "nosuch", ":", ";", "\0", "é",
])  # fmt: skip


@settings(max_examples=300)
@given(st.one_of(st.lists(PIECES, max_size=12).map("".join), st.text(max_size=30)))
def test_pipeline_text(text: str) -> None:
    try:
        passes = parse_pipeline(text, PIPELINES)
    except ParseError as why:
        lines = str(why).split("\n")
        assert len(lines) == 3
        assert lines[2].strip() == "^"
    else:
        again = ",".join(map(str, passes))
        assert parse_pipeline(again, PIPELINES) == passes


@pytest.mark.parametrize("name", ["missing.bin", "../secret.bin", "/etc/passwd", ".", ""])
def test_files_that_text_may_not_name(name: str, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    module = graphopt.api.load(models.model("fmnist_resnet8"))
    path = inner / "m.gir"
    graphopt.api.save(module, path)
    text = path.read_text().replace("m.gir.bin", name)
    path.write_text(text)
    with pytest.raises(GraphoptError):
        graphopt.api.load(path)


def test_too_short_a_file_of_constants(tmp_path: Path) -> None:
    module = graphopt.api.load(models.model("fmnist_resnet8"))
    path = tmp_path / "m.gir"
    graphopt.api.save(module, path)
    (tmp_path / "m.gir.bin").write_bytes(b"1234")
    with pytest.raises(GraphoptError):
        graphopt.api.load(path)
