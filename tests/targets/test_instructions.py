"""Reading a library's code: what its CPU lacks is found, what it has isn't, and nothing is believed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import graphopt
from graphopt.api import Arm
from graphopt.errors import MismatchError, UnsupportedError
from graphopt.targets import machine
from graphopt.targets.driver import toolchain
from graphopt.targets.emulator import instructions
from graphopt.targets.emulator.instructions import FEATURES, allowed, find, proved, tools
from tests.cli.conftest import Cli, cli, conv_model
from tests.targets.test_arm_integers import model as integer_model

assert cli  # a fixture

CPUS = Arm.cpus()


@pytest.fixture(scope="module")
def compiler() -> toolchain.Toolchain:
    if not tools():
        pytest.skip("no llvm-objdump is installed (apt-get install llvm)")
    try:
        return toolchain.find("aarch64-linux-gnu")
    except UnsupportedError as why:
        pytest.skip(str(why))


def library(folder: Path, compiler: toolchain.Toolchain, *words: int, more: str = "") -> Path:
    """A shared library of one function."""
    body = "".join(f"    .inst {word:#010x}\n" for word in words)
    head = ".text\n.globl f\n.type f, %function\nf:\n"
    (folder / "f.S").write_text(f"{head}{body}    ret\n{more}")
    toolchain.run(compiler, ["-shared", "-nostdlib", "f.S", "-o", "libf.so"], folder)
    return folder / "libf.so"


@pytest.fixture(scope="module")
def each(
    compiler: toolchain.Toolchain, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """For each feature, a library with an instruction of it."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FEATURES}
    return {name: library(folder, compiler, FEATURES["asimd"].word, FEATURES[name].word)
            for name, folder in folders.items()}  # fmt: skip


@pytest.mark.parametrize("cpu", CPUS)
def test_what_a_cpu_lacks_is_found_and_what_it_has_is_not(
    cpu: str, compiler: toolchain.Toolchain, each: dict[str, Path], tmp_path: Path
) -> None:
    m = machine.load(cpu)
    has = allowed(m)
    whole = library(tmp_path, compiler, *(FEATURES[name].word for name in has))
    told = proved([whole], m, compiler)
    assert told.startswith(f"{cpu} has every instruction: {len(has) + 1} of libf.so were read with ")
    lacks = [name for name in FEATURES if name not in has]
    assert "sve" in lacks
    for name in lacks:
        with pytest.raises(MismatchError, match=rf"libf.so has an instruction that {cpu} lacks: \w+.* in f$"):
            proved([each[name]], m, compiler)


def test_every_version_reads_alike(compiler: toolchain.Toolchain, tmp_path: Path) -> None:
    good = library(tmp_path, compiler, FEATURES["asimddp"].word, more=".word 0x4e82a420\n")
    m = machine.load("neoverse-n1")
    for tool in tools():
        (first, last) = instructions.read(tool, good, allowed(m))
        assert (first.function, first.text.split()) == ("f", ["sdot", "v0.4s,", "v1.16b,", "v2.4b[0]"])
        assert last.text == "ret"  # and what follows are data, though they would read as smmla


def test_a_library_for_a_richer_cpu_is_refused(compiler: toolchain.Toolchain, tmp_path: Path) -> None:
    path = tmp_path / "m.gir"
    path.write_text(integer_model())
    result = graphopt.optimize(path, "arm:neoverse-v1", threads=1)
    assert result.bundle and result.report.instructions.startswith("neoverse-v1 has every instruction")
    for poorer, word in {"cortex-a76": "[su]mmla|usmmla", "cortex-a72": "[su]mmla|usmmla|[su]dot"}.items():
        with pytest.raises(MismatchError, match=rf"libmodel.so has an instruction that {poorer} lacks: ({word}) v"):
            Arm(poorer).examine(result.bundle)


@pytest.mark.parametrize("cpu", CPUS)
def test_what_is_compiled_for_a_cpu_has_no_instruction_that_it_lacks(
    cpu: str, compiler: toolchain.Toolchain, tmp_path: Path
) -> None:
    path = tmp_path / "m.gir"
    path.write_text("""graph @main(%x: f32[1,8,6,6]) {
      %w = const rand 1 : f32[8,8,1,1]
      %c = conv(%x, %w) {strides=[1,1],pads=[0,0,0,0],dilations=[1,1],group=1}
      %y = sigmoid(%c)
      return(%y) {names=[y]}
    }""")
    result = graphopt.optimize(path, f"arm:{cpu}", threads=1)
    assert re.match(rf"{cpu} has every instruction: [\d,]+ of libmodel.so, [\d,]+ of libmodel.a ",
                    result.report.instructions)  # fmt: skip


def fake(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_one_that_knows_no_limits_is_passed_over(
    compiler: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions that add all features by themselves, and such as were built without AArch64."""
    (real, *_), m = tools(), machine.load("cortex-a72")
    everything = ",".join(f"+{feature.llvm}" for feature in FEATURES.values())
    shutting = f'for file; do :; done; exec {real} -d --mcpu=generic --mattr={everything} "$file"'
    named = [fake(tmp_path, "llvm-objdump", shutting), fake(tmp_path, "llvm-objdump-99", "exit 1")]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert tools()[:2] == named
    assert find(m, compiler) not in named
    monkeypatch.setattr(instructions, "tools", lambda: named)
    with pytest.raises(UnsupportedError, match=r"llvm-objdump, llvm-objdump-99 can't tell cortex-a72's"):
        find(m, compiler)


def test_a_feature_without_a_probe_is_an_error_not_a_pass(compiler: toolchain.Toolchain) -> None:
    m = replace(machine.load("cortex-a72"), cpu_features=("fp", "asimd", "sme"))
    with pytest.raises(UnsupportedError, match="no instruction is known that tells whether a CPU has sme"):
        proved([], m, compiler)


def test_optimize_and_verify_without_one_say_so(
    cli: Cli, compiler: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instructions, "tools", list[str])
    (tmp_path / "small.onnx").write_bytes(conv_model().SerializeToString())
    done = cli("optimize", tmp_path / "small.onnx", "--target", "arm", "-o", tmp_path / "b")
    told = "NOT CHECKED: no llvm-objdump was found to read them: `apt-get install llvm`"
    assert done.code == 0 and told in " ".join(done.out.split())
    done = cli("verify", tmp_path / "b", tmp_path / "small.onnx")
    assert done.code in {0, 3}  # 3: nothing runs it here
    assert done.code == 3 or told in " ".join(done.out.split())


def test_an_instruction_too_many_ends_optimize(
    cli: Cli, compiler: toolchain.Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a driver whose compiler was told to take the atomics of a later architecture."""
    if "gcc" not in compiler.text:
        pytest.skip("zig names architectures otherwise")
    flags = (*toolchain.COMPILE_FLAGS, "-march=armv8.1-a")
    monkeypatch.setattr(toolchain, "COMPILE_FLAGS", flags)
    (tmp_path / "small.onnx").write_bytes(conv_model().SerializeToString())
    done = cli("optimize", tmp_path / "small.onnx", "--target", "arm", "-o", tmp_path / "b")
    assert done.code == 1, done.out
    assert "libmodel.so has an instruction that cortex-a72 lacks: " in done.err
    assert not (tmp_path / "b").exists()
