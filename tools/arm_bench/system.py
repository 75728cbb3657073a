"""A little ARM system in a folder: Debian's Python and the peers' wheels, to run under qemu.

Nothing is installed on this computer: apt-get works on lists of its own and only downloads, dpkg -x
only unpacks, and pip only downloads. qemu looks files up in a folder first (`-L`), one for each CPU,
so that programs see its /proc/cpuinfo: of that CPU, with one core, not this computer's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON = "3.11"  # Debian 12's
DEBIAN = (
    f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libc6",
    "libstdc++6", "libgcc-s1", "libgomp1", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0",
    "liblzma5", "libssl3", "libuuid1",
)  # fmt: skip
WHEELS = {
    "ort": ("onnxruntime", "flatbuffers", "packaging"),
    "ncnn": ("ncnn",),
    "litert": ("ai-edge-litert", "flatbuffers"),
}
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")

# What Linux tells of these CPUs: implementer and part of Arm's technical reference manuals
# (MIDR_EL1), features by their architecture.
PARTS = {
    "cortex-a53": "0xd03",
    "cortex-a72": "0xd08",
    "cortex-a76": "0xd0b",
    "neoverse-n1": "0xd0c",
}
V8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
V82 = f"{V8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


class MissingError(Exception):
    """What isn't there, in words."""


@dataclass(frozen=True)
class System:
    """The folder with all of it."""

    folder: Path

    @property
    def root(self) -> Path:
        """Where Debian's files are."""
        return self.folder / "root"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the emulated Python is to find: no threads, the same hashes in every run."""
        return {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(self.folder / "site"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def command(self, qemu: Sequence[str], options: Sequence[str] = ()) -> list[str]:
        """The start of a command line of the emulated Python."""
        root = self._root_of(qemu[-1])
        return [*qemu, *options, "-L", str(root), str(root / "usr" / "bin" / f"python{PYTHON}")]

    def _root_of(self, cpu: str) -> Path:
        """What a computer with such a CPU has as /: the common files, and what its kernel tells."""
        root = self.folder / cpu
        for name, text in _told(cpu).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for entry in self.root.iterdir():
            if not (root / entry.name).exists():
                (root / entry.name).symlink_to(entry)
        return root

    def ready(self, engines: Sequence[str]) -> dict[str, str]:
        """Get what isn't here yet; the versions of the engines that are there then.

        Raises:
            MissingError: there is no ARM Python.
        """
        if not (self.root / "usr" / "bin" / f"python{PYTHON}").exists():
            self._debian()
        self._wheels(("numpy",))
        return {engine: self._wheels(WHEELS[engine]) for engine in engines}

    def _debian(self) -> None:
        """Download and unpack Debian's packages for arm64."""
        state = self.folder / "apt"
        (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (state / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        settings = {
            "APT::Architecture": "arm64", "APT::Architectures": "arm64",
            "Dir::State::Lists": f"{state}/lists", "Dir::State::status": f"{state}/status",
            "Dir::Cache": str(state), "APT::Sandbox::User": "",
        }  # fmt: skip
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        work(["apt-get", *options, "update"], state)
        work(["apt-get", *options, "download", *DEBIAN], state)
        for package in sorted(state.glob("*.deb")):
            work(["dpkg", "-x", str(package), str(self.root)], state)

    def _wheels(self, names: Sequence[str]) -> str:
        """Download and unpack wheels, once; the first one's version.

        Raises:
            MissingError: pip finds none.
        """
        wheels, site = self.folder / "wheels", self.folder / "site"
        for name in names:
            if not any(_of(wheels, name)):
                platforms = [word for p in PLATFORMS for word in ("--platform", p)]
                work([sys.executable, "-m", "pip", "download", "-q", "--no-deps",
                      "--only-binary=:all:", *platforms, "--python-version", PYTHON,
                      "-d", str(wheels), name], self.folder)  # fmt: skip
                for wheel in _of(wheels, name):
                    with zipfile.ZipFile(wheel) as file:
                        file.extractall(site)
        return next(_of(wheels, names[0])).name.split("-")[1]


def _told(cpu: str) -> dict[str, str]:
    """Files of a Linux kernel on a computer with one such core."""
    features = V8 if cpu in ("cortex-a53", "cortex-a72") else V82
    one = {f"sys/devices/system/cpu/{name}": "0\n" for name in ("possible", "present", "online")}
    return {**one, "proc/cpuinfo": (
        f"processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {PARTS[cpu]}\nCPU revision\t: 0\n\n"
    )}  # fmt: skip


def _of(wheels: Path, name: str) -> Iterator[Path]:
    return wheels.glob(f"{name.replace('-', '_')}-*.whl")


def work(command: Sequence[str], folder: Path) -> None:
    """Run a command.

    Raises:
        MissingError: it isn't here, or fails.
    """
    if not shutil.which(command[0]):
        raise MissingError(f"no {command[0]} here")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MissingError(f"{' '.join(command[:4])} ... fails: {words[:200]}")
