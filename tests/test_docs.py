"""What the documents show is what happens: their code runs, and prints what they say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / path).read_text("utf-8"), re.M | re.S)


def run(code: str, name: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec", dont_inherit=True), {"__name__": name})
    return printed.getvalue()


def test_write_a_pass_runs_and_prints_what_it_says() -> None:
    printed = run("\n".join(blocks("docs/write-a-pass.md", "python")), "write_a_pass")
    said = "".join(blocks("docs/write-a-pass.md", "text"))
    shown = [line for line in printed.splitlines() if line and not line.startswith("module ")]
    assert shown == said.splitlines()


def test_the_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    printed = run(code, "readme")
    assert re.match(r"\d+ -> \d+\n\(1, 10\)\n", printed)
    assert (tmp_path / "resnet8.graphopt" / "libmodel.so").is_file()


def test_every_file_that_the_documents_link_to_exists() -> None:
    for page in ("README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text("utf-8")):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"
