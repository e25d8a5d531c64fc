"""A real sshd on loopback, run as an unprivileged user, and a far side with a quick pocketgan."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from devices.check import PERCENTILES
from devices.latency import LatencyReport
from devices.machine import this_machine
from devices.percentiles import percentile
from devices.remote.far_side import PREFIX
from devices.remote.inventory import Board, Inventory
from devices.remote.parcels import own_version
from devices.sealed import read_sealed
from devices.telemetry.conditions import Conditions

USER = "board"
PRIVATE_ACCOUNTS = (
    # root without other users: sshd gets an account file of its own and, in a user namespace, a
    # uid that is not 0 and no capability. It then works as it does for any ordinary user
    'mount --bind "$1" /etc/passwd && mount --bind "$2" /etc/group && shift 2 && '
    "exec unshare --user --map-user=1000 --map-group=1000 -- "
)
QUIET = Conditions(
    seconds=6.0,
    readings=24,
    readers=("psutil",),
    clocks_mhz={},
    temperatures_c={},
    power_mw={},
    throttled=(),
    other_load=None,
    energy_mj=None,
    disturbed=(),
)


@dataclass
class Server:
    """One sshd, and what lies around it.

    Attributes:
        name: What the ssh configuration calls it.
        far: The folder that boards are to work in (``TMPDIR`` there).
    """

    name: str
    port: int
    far: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def programs(self) -> list[psutil.Process]:
        """Everything that runs over there just now, sessions first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def drop(self) -> None:
        """End the sessions of sshd as a pulled cable would: nobody over there is told."""
        for program in self._sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                program.kill()

    def freeze(self) -> None:
        """Stop the sessions of sshd without ending them: the line is dead, and no one is told."""
        for program in self._sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                program.suspend()

    def _sessions(self) -> list[psutil.Process]:
        found = []
        for program in self.programs():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just come to its end
                if program.name().startswith("sshd"):
                    found.append(program)
        return found

    def crash(self) -> None:
        """End everything over there at once, what would clean up included."""
        programs = self.programs()
        for end in (psutil.Process.suspend, psutil.Process.kill):  # none sees another die
            for program in programs:
                with contextlib.suppress(psutil.NoSuchProcess):
                    end(program)

    def left(self) -> list[str]:
        """What is in the folder that boards work in, after a moment for those that still clean."""
        for _ in range(100):
            names = [path.name for path in self.far.glob(f"{PREFIX}*")]
            if not names:
                break
            time.sleep(0.05)
        return names


@dataclass(frozen=True)
class Net:
    """Servers, and the ssh configuration that reaches them."""

    config: Path
    servers: tuple[Server, Server]
    key: Path


def unprivileged() -> list[str]:
    """What to put before sshd so that it runs as an ordinary user, who is called `USER`."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def sshd_program() -> str:
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs sshd: install the package openssh-server")
    return program


def start_sshd(folder: Path, name: str, key: Path) -> Server:
    """Start one sshd with a key and a configuration of its own."""
    home = folder / f"home-{name}"
    far = folder / f"far-{name}"
    home.mkdir()
    far.mkdir()
    make_key(folder / f"host-{name}")
    port = free_port()
    config = folder / f"sshd-{name}"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\n"
        f'HostKey "{folder}/host-{name}"\n'
        f'AuthorizedKeysFile "{key}.pub"\n'
        "PidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
    )
    command = [sshd_program(), "-D", "-e", "-f", str(config)]
    if os.getuid() == 0:
        accounts, groups = folder / f"passwd-{name}", folder / f"group-{name}"
        accounts.write_text(f"{USER}:x:1000:1000::{home}:/bin/sh\n")
        groups.write_text(f"{USER}:x:1000:\n")
        script = PRIVATE_ACCOUNTS + '"$@"'
        command = [*unprivileged(), script, "sh", str(accounts), str(groups), *command]
    log = folder / f"log-{name}"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=file)
    for _ in range(200):
        if b"Server listening" in log.read_bytes():
            return Server(name, port, far, process)
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    said = (log.read_text().strip().splitlines() or ["nothing"])[-1]
    if os.getuid() == 0 and "unshare" in said:
        pytest.skip(f"root may not make a namespace here ({said}): run as an ordinary user")
    raise RuntimeError(f"sshd did not start; it said: {said}")


def make_key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="session")
def net(tmp_path_factory) -> Iterator[Net]:
    """Two boards, ``one`` and ``two``, and ``behind`` which is ``two`` by way of ``one``."""
    if shutil.which("ssh") is None:
        pytest.skip("needs ssh: install the package openssh-client")
    sshd_program()
    folder = tmp_path_factory.mktemp("net")
    key = make_key(folder / "key")
    user = USER if os.getuid() == 0 else psutil.Process().username()
    servers: list[Server] = []
    try:
        for name in ("one", "two"):
            servers.append(start_sshd(folder, name, key))
        hosts = [(each.name, each.port, "") for each in servers]
        hosts += [("behind", servers[1].port, "  ProxyJump one\n")]
        known = [
            f"[127.0.0.1]:{each.port} {(folder / f'host-{each.name}.pub').read_text()}"
            for each in servers
        ]
        (folder / "known").write_text("".join(known))
        config = folder / "config"
        config.write_text(
            "".join(
                f"Host {name}\n  Port {port}\n{more}"
                for name, port, more in [*hosts, ("shut", 1, "")]
            )
            + f"Host *\n  HostName 127.0.0.1\n  User {user}\n"
            f'  IdentityFile "{key}"\n  IdentitiesOnly yes\n'
            f'  UserKnownHostsFile "{folder}/known"\n  GlobalKnownHostsFile none\n'
        )
        yield Net(config, (servers[0], servers[1]), key)
    finally:
        for server in servers:
            server.crash()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=10)


def report_of(bundle: Path, **changes: object) -> LatencyReport:
    """A report that a bundle's budget is kept on this machine: 64 images of 1 to 1.063 ms."""
    sealed = read_sealed(bundle)
    samples = tuple(1 + number / 1000 for number in range(64))
    machine = this_machine()
    fields: dict[str, object] = {
        "machine": machine,
        "fingerprint": machine.fingerprint(),
        "engine_sha256": sealed.sha256[sealed.engine_file],
        "profile": sealed.profile.name,
        "backend": sealed.backend,
        "precision": sealed.precision,
        "image_size": sealed.profile.image_size,
        "mode": "rapid",
        "cold_ms": (300.0,),
        "load_ms": 20.0,
        "first_ms": 2.0,
        "samples_ms": samples,
        **{f"p{percent}": percentile(samples, percent) for percent in PERCENTILES},
        "peak_rss_mib": 100.0,
        "conditions": QUIET,
        "started_at": "2026-01-02T03:04:05Z",
    }
    text = json.dumps(
        {**fields, **changes}, default=lambda value: json.loads(value.model_dump_json())
    )
    return LatencyReport.model_validate_json(text)


@dataclass(frozen=True)
class Far:
    """A pocketgan on the far side that is quick and does as a test says.

    Attributes:
        library: Comes before what is installed there.
        marks: A folder where it leaves word.
    """

    library: Path
    marks: Path

    def does(self, *lines: str) -> None:
        """What ``pocketgan`` does there: lines of Python; ``verb`` and ``words`` are set."""
        body = "\n    ".join(lines)
        (self.library / "deploy" / "main.py").write_text(
            "import json, os, shutil, sys, time\n"
            f"MARKS = {str(self.marks)!r}\n\n"
            "def main():\n"
            "    verb, *words = sys.argv[1:]\n"
            f"    {body}\n"
            "    return 0\n"
        )

    def reports(self, content: str | bytes) -> None:
        """Let ``check`` write this into the file that ``--json`` names."""
        raw = content.encode() if isinstance(content, str) else content
        (self.marks / "report.json").write_bytes(raw)
        self.does(
            "shutil.copy(os.path.join(MARKS, 'report.json'), words[words.index('--json') + 1])"
        )

    def hangs(self) -> None:
        """Let ``check`` leave its process id and go on for a minute."""
        self.does(
            "open(os.path.join(MARKS, 'new'), 'w').write(str(os.getpid()))",
            "os.rename(os.path.join(MARKS, 'new'), os.path.join(MARKS, 'started'))",
            "time.sleep(60)",
        )

    def wait_until_started(self) -> None:
        for _ in range(400):
            if (self.marks / "started").exists():
                return
            time.sleep(0.02)
        raise AssertionError("nothing was started on the far side within 8 s")

    def ended(self) -> bool:
        """Whether what `hangs` let run has ended, after a moment."""
        number = int((self.marks / "started").read_text())
        for _ in range(100):
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.05)
                    continue
            return True
        return False


@pytest.fixture
def far(tmp_path) -> Far:
    library, marks = tmp_path / "library", tmp_path / "marks"
    (library / "deploy").mkdir(parents=True)
    (library / "deploy" / "__init__.py").touch()
    facts = library / f"pocketgan-{own_version()}.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: pocketgan\nVersion: {own_version()}\n"
    )
    marks.mkdir()
    return Far(library, marks)


@pytest.fixture
def inventory(net, far) -> Callable[..., Inventory]:
    """The boards of `net` with the quick pocketgan; keyword arguments go to every board."""

    def make(*, env=None, config=net.config, **changes: object) -> Inventory:
        boards = {}
        places = {"one": net.servers[0], "two": net.servers[1], "behind": net.servers[1]}
        for name, server in places.items():
            values = {
                "destination": name,
                "python": sys.executable,
                "env": {"TMPDIR": str(server.far), "PYTHONPATH": str(far.library), **(env or {})},
                "mode": "rapid",
                "timeout_s": 20.0,
            }
            boards[name] = Board.model_validate({**values, **changes})
        return Inventory(ssh_config=config, boards=boards)

    return make


@dataclass(frozen=True)
class Near:
    """A board without a network: an ``ssh`` that runs what it is given on this machine.

    Attributes:
        tmp: The folder it works in.
        library: Of the pocketgan there.
    """

    tmp: Path
    library: Path

    def inventory(self, **changes: object) -> Inventory:
        values = {
            "destination": "near",
            "python": sys.executable,
            "env": {"TMPDIR": str(self.tmp), "PYTHONPATH": str(self.library)},
            "mode": "rapid",
            "timeout_s": 20.0,
        }
        return Inventory(boards={"near": Board.model_validate({**values, **changes})})

    def left(self) -> list[Path]:
        return list(self.tmp.iterdir())


@pytest.fixture
def near(tmp_path, far, monkeypatch) -> Near:
    programs, tmp = tmp_path / "programs", tmp_path / "tmp"
    programs.mkdir()
    tmp.mkdir()
    (programs / "ssh").write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return Near(tmp, far.library)


@pytest.fixture
def bundle(make_bundle, profile) -> Path:
    """A bundle for this machine with memory to spare."""
    assert profile.architecture == platform.machine()
    made: Path = make_bundle(profile=profile.model_copy(update={"memory_mib": 100_000}))
    return made


@pytest.fixture
def make_report() -> Callable[..., LatencyReport]:
    return report_of


@pytest.fixture
def new_key() -> Callable[[Path], Path]:
    return make_key


@pytest.fixture
def report(bundle) -> LatencyReport:
    return report_of(bundle)
