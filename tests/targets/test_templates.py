"""Templates: their compiled form is kept, and is never a reason for another text."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from graphopt.targets.templates import Kept, environment

PACKAGE = "graphopt.targets.driver"


def text() -> str:
    env = environment(PACKAGE, autoescape=False, newline=True)
    return env.get_template("version.map.j2").render(p="go", public=["run"])


def test_a_template_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = text()
    (kept,) = (tmp_path / "graphopt" / "templates").iterdir()
    assert "go_run;" in first

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(jinja2.Environment, "compile", refuse)
    assert text() == first
    kept.write_bytes(b"of another version of Python")
    with pytest.raises(AssertionError, match="compiled again"):
        text()


def test_a_cache_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "go_run;" in text()


def test_other_options_are_another_template(tmp_path: Path) -> None:
    one, other = Kept(tmp_path, "{'trim_blocks': True}"), Kept(tmp_path, "{'trim_blocks': False}")
    assert one.get_cache_key("a", "b") != other.get_cache_key("a", "b")
