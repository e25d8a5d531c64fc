"""What the benchmarks of the server share: bundles, photos, and programs pinned to a core."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from PIL import Image, ImageOps

from deploy.manifests import Manifest
from deploy.sealing import seal
from devices.sealed import MANIFEST

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "photos" / "test" / "aitzgorri.jpg"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Server:
    """A running program and everything it started.

    Attributes:
        process: The program itself.
        port: Where it listens, on this machine.
        started_s: How long it took until it was ready.
    """

    process: psutil.Process
    port: int
    started_s: float

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def tree(self) -> list[psutil.Process]:
        """The program and its descendants, as far as they live."""
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def rss_mib(self) -> float:
        """Resident memory of all of them; what they share counts once for each."""
        return sum(_or_zero(lambda p=p: p.memory_info().rss) for p in self.tree()) / 2**20

    def cpu_s(self) -> float:
        """Processor time that all of them used so far."""
        return sum(_or_zero(lambda p=p: sum(p.cpu_times()[:2])) for p in self.tree())

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Halt all of them for a while, so that they disturb nothing."""
        tree = self.tree()
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in tree:
                with suppress(psutil.NoSuchProcess):
                    process.resume()


@contextmanager
def running(
    command: Sequence[str | Path],
    port: int,
    *,
    core: int,
    ready: str,
    body: bytes | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    patience_s: float = 180.0,
) -> Iterator[Server]:
    """Run a server on one core until the block ends; what it started ends with it.

    Args:
        command: As for subprocess.
        port: Where it will listen.
        core: The processor it may use.
        ready: Path that answers 200 when it is ready.
        body: Sent there by POST if given.
        env: Beside this process's own environment.
        log: File that takes its output; a temporary one if left out.
        patience_s: Longest that it may take to be ready.

    Raises:
        SystemExit: It ended or never got ready.
    """
    began = time.monotonic()
    said = log.open("w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        ["taskset", "--cpu-list", str(core), *map(str, command)],
        stdout=said,
        stderr=subprocess.STDOUT,
        env=os.environ | ONE_THREAD | (env or {}),
        start_new_session=True,
    )
    server = Server(psutil.Process(process.pid), port, 0.0)
    try:
        while not _answers(f"{server.url}{ready}", body):
            if process.poll() is not None:
                said.seek(0)
                last = said.read()[-2000:].decode(errors="replace")
                raise SystemExit(f"{command[0]} ended with status {process.returncode}: {last}")
            if time.monotonic() - began > patience_s:
                raise SystemExit(f"{command[0]} was not ready after {patience_s:g} s")
            time.sleep(0.05)
        yield Server(server.process, port, time.monotonic() - began)
    finally:
        tree = server.tree()
        process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=20)
        for left in alive:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()
        said.close()


@contextmanager
def pocketgan(
    bundle: Path,
    *,
    core: int,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """Run ``pocketgan serve`` on one core, with the settings in ``env``."""
    port = free_port()
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "deploy.main",
        "serve",
        bundle,
        "--port",
        str(port),
    ]
    quiet = {"POCKETGAN_LOG_LEVEL": "warning", "PYTHONPATH": str(ROOT)}
    with running(
        command, port, core=core, ready="/readyz", env=quiet | dict(env or {}), log=log
    ) as server:
        yield server


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def cores() -> tuple[int, int]:
    """Two processors: for the server, and for whoever asks it.

    Raises:
        SystemExit: This process may use only one; the two would take turns.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("two processors are needed: one for the server, one for its clients")
    return allowed[0], allowed[1]


@contextmanager
def scratch(bundle: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of a bundle whose profile has one thread, and a folder to work in.

    Raises:
        BundleError: Not a bundle, or a damaged one.
    """
    with tempfile.TemporaryDirectory(prefix="pocketgan-") as name:
        folder = Path(name)
        yield reseal(bundle, folder / "bundle"), folder


def reseal(
    bundle: Path,
    out: Path,
    *,
    threads: int = 1,
    name: str | None = None,
    float_engine: Path | None = None,
) -> Path:
    """Copy a bundle with another number of threads.

    Args:
        bundle: What is copied.
        out: Where to.
        threads: For its profile.
        name: Another name for its model; that alone changes its digest.
        float_engine: Takes the place of its engine, in fp32: it makes slightly other images.
    """
    face = Manifest.model_validate_json((bundle / MANIFEST).read_text())
    changes = {
        "profile": face.profile.model_copy(update={"threads": threads}),
        "model": face.model.model_copy(update={"name": name or face.model.name}),
        "precision": "fp32" if float_engine else face.precision,
    }

    def fill(folder: Path) -> Callable[[dict[str, str]], Manifest]:
        for file in face.sha256:
            shutil.copyfile(bundle / file, folder / file)
        if float_engine:
            shutil.copyfile(float_engine, folder / face.engine_file)
        return lambda sha256: face.model_copy(update=changes | {"sha256": sha256})

    seal(out, MANIFEST, fill)
    return out


def photo(side: int) -> bytes:
    """A photo of the repository as a square JPEG."""
    buffer = io.BytesIO()
    with Image.open(PHOTO) as image:
        ImageOps.fit(image.convert("RGB"), (side, side)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float = 60) -> bytes:
    """Send one request and take its answer's body."""
    request = urllib.request.Request(url, data=body, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        answer: bytes = response.read()
        return answer


def _answers(url: str, body: bytes | None) -> bool:
    try:
        # otherwise urllib calls it a form
        headers = {} if body is None else {"Content-Type": "image/jpeg"}
        request = urllib.request.Request(url, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=20):
            return True
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, urllib.error.URLError):
        pass
    return False


def _or_zero(read: Callable[[], float]) -> float:
    try:
        return float(read())
    except psutil.NoSuchProcess:
        return 0.0
