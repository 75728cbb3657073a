"""Commands on a bundle for another CPU than this computer's: under qemu, or on a board by ssh."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.errors import UnsupportedError
from graphopt.targets import machine
from graphopt.targets.base import Build
from graphopt.targets.emulator.qemu import Emulator
from tests.cli.conftest import Cli, conv_model
from tests.crosscheck import emulated

CPU = "cortex-a72"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model, its bundle for a Cortex-A72, and an input."""
    emulated(machine.load(CPU))  # skips where nothing runs it
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "small.onnx").write_bytes(conv_model().SerializeToString())
    result = graphopt.optimize(folder / "small.onnx", "arm", build=Build(jobs=2), measure=True)
    result.save(folder / "small.graphopt")
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    return folder


@pytest.fixture
def bundle(place: Path) -> Path:
    return place / "small.graphopt"


@pytest.fixture
def without_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(target: machine.Machine) -> Emulator:
        raise UnsupportedError("no qemu-aarch64 was found to run it: `apt-get install qemu-user`")

    monkeypatch.setattr("graphopt.targets.arm.find", none)


def test_run(cli: Cli, place: Path, bundle: Path, tmp_path: Path) -> None:
    done = cli("run", bundle, "--input", place / "x.npz", "--output", tmp_path / "y.npz")
    assert done.code == 0, done.err
    with np.load(place / "x.npz") as x, np.load(tmp_path / "y.npz") as y:
        from graphopt.onnx import Reference

        want = Reference(place / "small.onnx").run({"x": x["x"]})["y"]
        np.testing.assert_allclose(y["y"], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_run_checks_its_inputs(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", x=np.zeros((1, 3, 8, 9), np.float32))
    done = cli("run", bundle, "--input", tmp_path / "wrong.npz", "--output", tmp_path / "y.npz")
    assert done.code == 2 and "has shape 1x3x8x9, and the model takes 1x3x8x8" in done.err
    assert not (tmp_path / "y.npz").exists()


def test_verify(cli: Cli, place: Path, bundle: Path) -> None:
    done = cli("verify", bundle, place / "small.onnx")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "the compiled bundle, as cortex-a72 under qemu, agrees" in text
    assert json.loads(cli("verify", bundle, place / "small.onnx", "--json").out)["verified"]


def test_a_damaged_bundle_is_not_run(cli: Cli, place: Path, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    data = bytearray((tmp_path / "b" / "libmodel.a").read_bytes())
    data[-100] ^= 1
    (tmp_path / "b" / "libmodel.a").write_bytes(data)
    done = cli("verify", tmp_path / "b", place / "small.onnx")
    assert done.code == 2 and "libmodel.a is not the file it was made with" in done.err


def test_profile(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    done = cli("profile", bundle, "--html", tmp_path / "p.html", "--trace", tmp_path / "t.json")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "1 thread; not measured: estimated from counted instructions, cortex-a72's pipes" in text
    assert "instructions" in text.split("kernel family")[0]
    assert "This wasn't measured" in (tmp_path / "p.html").read_text()
    assert json.loads((tmp_path / "t.json").read_text())
    told = json.loads(cli("profile", bundle, "--json").out)
    again = json.loads(cli("profile", bundle, "--json").out)
    assert told["estimate"] and told["cpu"] == CPU
    assert [n["instructions"] for n in told["layers"]] == [n["instructions"] for n in again["layers"]]


def test_inspect_and_the_report(cli: Cli, bundle: Path) -> None:
    text = " ".join(cli("inspect", bundle).out.split())
    assert "machine cortex-a72 (aarch64, with fp, asimd)" in text and "libmodel.a" in text
    page = (bundle / "report.html").read_text()
    assert "Latency, estimated" in page and "Latency, measured" not in page
    assert "instructions</th>" in page


def test_bench_says_what_to_do(cli: Cli, bundle: Path) -> None:
    done = cli("bench", bundle)
    assert done.code == 3
    assert "the bundle is for aarch64: --ssh HOST times it there" in done.err


@pytest.mark.usefixtures("without_qemu")
@pytest.mark.parametrize("command", ["run", "verify", "profile"])
def test_without_qemu(command: str, cli: Cli, place: Path, bundle: Path, tmp_path: Path) -> None:
    more = {"run": ["--input", place / "x.npz", "--output", tmp_path / "y.npz"],
            "verify": [place / "small.onnx"], "profile": []}  # fmt: skip
    done = cli(command, bundle, *more[command])
    assert done.code == 3
    assert done.err.strip().endswith("`apt-get install qemu-user`")


# ---- a board by ssh: this computer's sshd, and a program that runs under qemu there ----


@dataclass(frozen=True)
class Server:
    """A running sshd; `options` are the command line's that reach it."""

    options: tuple[str, ...]
    log: Path


def keys(folder: Path) -> None:
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    (folder / "authorized").chmod(0o600)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
    if not sshd or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        pytest.skip("no sshd is installed (apt-get install openssh-server)")
    folder, port = tmp_path_factory.mktemp("sshd"), free_port()
    keys(folder)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where it gives up its privileges
    settings = {
        "ListenAddress": "127.0.0.1", "Port": port, "HostKey": folder / "host", "UsePAM": "no",
        "AuthorizedKeysFile": folder / "authorized", "StrictModes": "no", "PidFile": "none",
        "PermitRootLogin": "yes",
    }  # fmt: skip
    (folder / "config").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    log = folder / "log"
    process = subprocess.Popen([sshd, "-D", "-f", str(folder / "config"), "-E", str(log)])
    reach = {"Port": port, "IdentityFile": folder / "user", "IdentitiesOnly": "yes",
             "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null",
             "BatchMode": "yes"}  # fmt: skip
    options = tuple(x for k, v in reach.items() for x in ("--ssh-option", f"{k}={v}"))
    try:
        wait_for(port, process, log)
        yield Server(options, log)
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.skip(f"sshd doesn't start here: {log.read_text()[-300:] if log.exists() else ''}")


def on_board(cli: Cli, bundle: Path, server: Server, *more: object) -> tuple[int, str, str]:
    run = f"qemu-aarch64 -cpu {CPU}"
    done = cli("bench", bundle, "--ssh", "localhost", *server.options, "--ssh-run", run,
               "--seconds", 0.2, "--threads", 1, *more)  # fmt: skip
    return done.code, done.out, done.err


def test_bench_on_a_board(cli: Cli, bundle: Path, server: Server) -> None:
    code, out, err = on_board(cli, bundle, server, "--json")
    assert code == 0, err
    told = json.loads(out)
    (row,) = told["results"]
    assert row["runs"] >= 3 and 0 < row["min"] <= row["p50"] <= row["p99"]
    assert [c["ok"] for c in told["checks"]] == [True]
    assert not list(Path("/tmp").glob("tmp.*/in0"))  # the folder there has gone
    code, out, err = on_board(cli, bundle, server)
    assert code == 0 and "the compiled bundle, on localhost, agrees" in " ".join(out.split())


def test_a_board_of_another_kind(cli: Cli, bundle: Path, server: Server) -> None:
    done = cli("bench", bundle, "--ssh", "localhost", *server.options)
    assert done.code == 3 and "the bundle is for aarch64, and localhost is x86_64" in done.err


def test_a_board_that_is_not_there(cli: Cli, bundle: Path) -> None:
    done = cli("bench", bundle, "--ssh", "127.0.0.1", "--ssh-option", f"Port={free_port()}")
    assert done.code == 2 and "127.0.0.1 can't be reached" in done.err


def test_a_program_that_fails_there(cli: Cli, bundle: Path, server: Server) -> None:
    done = cli("bench", bundle, "--ssh", "localhost", *server.options, "--ssh-run", "false")
    assert done.code == 2 and "the compiled program fails on localhost" in done.err
    kill = "sh -c 'kill -ILL $$'"
    done = cli("bench", bundle, "--ssh", "localhost", *server.options, "--ssh-run", kill)
    assert done.code == 1 and "localhost lacks an instruction that the bundle" in done.err


def test_what_does_not_go_with_ssh(cli: Cli, place: Path, bundle: Path) -> None:
    done = cli("bench", bundle, "--ssh", "board", "--vs", "onnxruntime")
    assert done.code == 2 and "without --vs" in done.err
    done = cli("bench", place / "small.onnx", "--ssh", "board")
    assert done.code == 2 and "--ssh takes a bundle" in done.err
    done = cli("bench", bundle, "--ssh=-oProxyCommand=touch x")
    assert done.code == 2 and "is no host" in done.err


# ---- what can't be compiled for a board ----


def test_a_cpu_that_does_not_exist(cli: Cli, model: Path) -> None:
    done = cli("optimize", model, "--target", "arm:cortex-a73")
    assert done.code == 2 and "did you mean 'cortex-a76'?" in done.err


def test_open_shapes_are_named(cli: Cli, tmp_path: Path) -> None:
    models = Path(__file__).parents[2] / "models"
    out = tmp_path / "out"
    done = cli("optimize", models / "shapes_unet.onnx", "--target", "arm", "-o", out)
    assert done.code == 3 and "--input-shape image=1x3xHxW" in done.err
    assert not out.exists()


def test_an_op_that_cannot_be_compiled_is_named(cli: Cli, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("NonZero", ["a"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [2, None])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    done = cli("optimize", tmp_path / "m.onnx", "--target", "arm", "-o", tmp_path / "out")
    assert done.code == 3 and "NonZero has no kernel" in done.err
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx"}


def test_targets(cli: Cli) -> None:
    told = json.loads(cli("targets", "--json").out)["targets"]
    by_name = {t["name"]: t for t in told}
    assert {"arm", "c", "x86"} <= set(by_name)
    assert CPU in [c["name"] for c in by_name["arm"]["cpus"]]
    assert "riscv64-linux-gnu" in [c["name"] for c in by_name["c"]["cpus"]]
    if os.uname().machine == "x86_64":
        assert by_name["arm"]["host"] is None
