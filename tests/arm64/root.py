"""An arm64 Debian with ONNX Runtime's arm64 wheel in a folder, for user-mode emulation.

Nothing in it is ever installed: packages and wheels are unpacked, qemu runs the one Python
interpreter, and neither a chroot nor binfmt is needed. `python tests/arm64/root.py build/arm64`
makes it; what is complete is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

QEMU = "qemu-aarch64-static"
TOOLS = (QEMU, "debootstrap", "dpkg-deb")
RELEASE = "bookworm"
PYTHON = "3.11"
"""The one that Debian release has."""
PACKAGES = ("python3", "libgomp1", "libstdc++6")
WHEELS = ("onnxruntime", "numpy", "flatbuffers", "protobuf", "packaging")
"""What `import onnxruntime` needs; in the versions of this environment, so that only the
architecture differs."""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "any")
CPU = "cortex-a76"
"""That of a Raspberry Pi 5; it has the dot product of bytes (SDOT)."""
CORES = 2
CPUINFO = """processor\t: {core}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


def missing_tools() -> list[str]:
    """What this machine lacks to make the folder, in words; empty where it lacks nothing."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
    lacks = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if not lacks and os.geteuid() != 0:
        lacks.append("root, which debootstrap asks for")
    return lacks


def make_root(folder: Path) -> Path:
    """Make the folder, or find it complete; every step is made whole or not at all.

    Raises:
        subprocess.CalledProcessError: A download failed.
    """
    root, site = folder / "root", folder / "site"
    folder.mkdir(parents=True, exist_ok=True)
    if not root.is_dir():
        _debian(folder / "unfinished")
        _kernel_files(folder / "unfinished")
        (folder / "unfinished").replace(root)
    versions = {name: metadata.version(name) for name in WHEELS}
    noted = folder / "versions.json"
    if not noted.is_file() or json.loads(noted.read_text()) != versions:
        noted.unlink(missing_ok=True)
        _wheels(versions, folder / "wheels", site)
        noted.write_text(json.dumps(versions))
    return folder


def command(folder: Path, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """What runs the emulated Python with some arguments, and its whole environment."""
    root = folder.resolve() / "root"
    environment = {
        "QEMU_LD_PREFIX": str(root),
        "PYTHONPATH": str(folder.resolve() / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ.get("PATH", ""),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    python = root / f"usr/bin/python{PYTHON}"
    return [QEMU, "-cpu", CPU, str(python), *arguments], environment


def _debian(root: Path) -> None:
    """The first stage of debootstrap downloads; dpkg-deb unpacks without running a thing."""
    shutil.rmtree(root, ignore_errors=True)
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    subprocess.run(
        [
            "debootstrap",
            "--arch=arm64",
            "--foreign",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            RELEASE,
            str(root),
        ],
        check=True,
        env=os.environ | {"PATH": path},
    )
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)


def _kernel_files(root: Path) -> None:
    """What the kernel of a two-core board would say of its CPU.

    ONNX Runtime reads these files at import; without them it is given those of the emulating
    machine, in which it finds no arm64 core, and it ends in a segmentation fault.
    """
    cpus = root / "sys/devices/system/cpu"
    every = f"0-{CORES - 1}"
    text = {
        root / "proc/cpuinfo": "".join(CPUINFO.format(core=core) for core in range(CORES)),
        cpus / "possible": every,
        cpus / "present": every,
        cpus / "online": every,
        cpus / "kernel_max": str(CORES - 1),
    }
    for core in range(CORES):
        topology, clock = cpus / f"cpu{core}/topology", cpus / f"cpu{core}/cpufreq"
        shared = ("core_siblings_list", "package_cpus_list", "cluster_cpus_list")
        text |= {topology / name: every for name in shared}
        text |= {topology / name: str(core) for name in ("thread_siblings_list", "core_cpus_list")}
        text |= {
            topology / "physical_package_id": "0",
            topology / "core_id": str(core),
            topology / "core_siblings": f"{2**CORES - 1:x}",
            clock / "cpuinfo_max_freq": "2400000",
            clock / "cpuinfo_min_freq": "1500000",
        }
    for path, content in text.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.rstrip("\n") + "\n")


def _wheels(versions: dict[str, str], downloads: Path, site: Path) -> None:
    for folder in (downloads, site):
        shutil.rmtree(folder, ignore_errors=True)
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON),
            *("--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none"),
            *(*platforms, "--dest", str(downloads)),
            *(f"{name}=={version}" for name, version in versions.items()),
        ],
        check=True,
    )
    for wheel in sorted(downloads.glob("*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(site)


def main() -> int:
    """Make the folder that the first argument names."""
    lacks = missing_tools()
    if lacks or len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} FOLDER, with {', '.join(lacks or TOOLS)}", file=sys.stderr)
        return 2
    make_root(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
