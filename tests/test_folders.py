"""A folder that takes another's place: all of it or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.folders import replace


def folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_text(path.name)
    return path


def held(path: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in path.iterdir()}


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    new, old = folder(tmp_path / "new", "a", "b"), folder(tmp_path / "old", "b", "c")
    if inside:
        monkeypatch.chdir(old)
    number = old.stat().st_ino
    replace(new, old, tmp_path / "aside")
    assert held(old) == {"a": "new", "b": "new"}
    assert held(tmp_path / "aside") == {"b": "old", "c": "old"}
    assert (old.stat().st_ino == number) is inside


@pytest.mark.parametrize("at", range(4))
def test_what_fails_halfway_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """In the folder that one is in, file by file; an interrupt, too."""
    new, old = folder(tmp_path / "new", "a", "b"), folder(tmp_path / "old", "b", "c")
    monkeypatch.chdir(old)
    rename, calls = Path.rename, list[Path]()

    def failing(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        replace(new, old, tmp_path / "aside")
    assert held(old) == {"b": "old", "c": "old"}
    assert held(new) == {"a": "new", "b": "new"}
