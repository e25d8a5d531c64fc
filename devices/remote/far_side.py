"""What runs on a board: sent there as it is, run by the board's own Python, answers in JSON.

Standard library only and nothing newer than Python 3.6, so that a board whose Python is too old
can still say so. One request a line on standard input, one answer a line on standard output; the
bytes of a file follow the line that announces them. Everything is written below one new folder.
When standard input ends, for whatever reason, the running program is ended and the folder removed.
"""
# ruff: noqa: UP006, UP035, UP036, UP045 -- newer forms need a newer Python

import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from types import FrameType
from typing import IO, Any, Dict, List, Optional

GREETING = "pocketgan board 1"
PREFIX = "pocketgan-check-"
LIBRARY = "library"
GRACE_S = 2.0
TAIL_BYTES = 2000

WITHOUT_HOME = "import sys; sys.path[:] = [path for path in sys.path if path]; "
"""Python puts the folder it starts in before all others; a file there must shadow nothing."""
POCKETGAN = WITHOUT_HOME + "from deploy.main import main; sys.exit(main())"
VERSION = WITHOUT_HOME + (
    "import importlib.metadata as m; print([d.version for d in m.distributions(name='pocketgan')])"
)

WRONG = (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError, zipfile.BadZipFile)

Request = Dict[str, Any]
Answer = Dict[str, Any]


class HungUpError(Exception):
    """The other side has hung up, or this machine asks the program to end."""


class Exactly:
    """The next ``size`` bytes of a stream, as a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """As of any file, but that a stream which ends too early is an error."""
        wanted = self._left if size < 0 else min(size, self._left)
        chunk = self._stream.read(wanted)
        self._left -= len(chunk)
        if len(chunk) < wanted:
            raise HungUpError
        return chunk

    def drain(self) -> None:
        """Pass over what is left, so that the next request begins where it should."""
        while self.read(1 << 20):
            pass


def main() -> int:
    """Answer requests until the other side hangs up; leave nothing behind."""
    signal.signal(signal.SIGTERM, hang_up)
    signal.signal(signal.SIGHUP, hang_up)
    say_line(GREETING)
    folder = ""
    env = dict(os.environ)
    try:
        while True:
            line = sys.stdin.buffer.readline()
            request: Request = {"do": "end"}
            if line.endswith(b"\n"):
                request = json.loads(line.decode())
            do = request["do"]
            if do == "end":
                break
            try:
                if do == "probe":
                    env.update(request["env"])
                    # mkdtemp: a name nobody can guess, and only this user may enter
                    folder = tempfile.mkdtemp(prefix=PREFIX, dir=env.get("TMPDIR") or None)
                    os.chdir(folder)  # where `end_workers` would look for this program
                    answer = probe(folder, env)
                elif do == "put":
                    answer = put(request, folder)
                elif do == "unpack":
                    answer = unpack(request, folder, env)
                elif do == "run":
                    answer = run(request, folder, env)
                elif do == "pack":
                    answer = pack(request, folder)
                elif do == "get":
                    give(request, folder)
                    continue
                else:
                    answer = {"left": remove_old(request["folder"])}
            except BrokenPipeError:
                raise
            except WRONG as error:
                answer = {"error": str(error) or type(error).__name__}
            say_line(json.dumps(answer))
    except (HungUpError, BrokenPipeError):
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        left = remove(folder)
        try:
            say_line(json.dumps({"left": left}))
        except OSError:
            # nobody listens; and the interpreter shall not try to write it again as it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def hang_up(number: int, frame: Optional[FrameType]) -> None:
    """What a signal that ends programs does here: first clean up."""
    raise HungUpError


def say_line(text: str) -> None:
    """One line to the other side, at once."""
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


def probe(folder: str, env: Dict[str, str]) -> Answer:
    """What this board is."""
    return {
        "folder": folder,
        "python": list(sys.version_info[:3]),
        "architecture": platform.machine(),
        "board": model(),
        "free_mib": shutil.disk_usage(folder).free >> 20,
        "pocketgan": version(folder, env),
    }


def model() -> Optional[str]:
    """What a board calls itself; None where it does not."""
    try:
        with open("/proc/device-tree/model", "rb") as file:
            return file.read(200).strip(b"\0\n ").decode("ascii", "replace") or None
    except OSError:
        return None


def version(folder: str, env: Dict[str, str]) -> Optional[str]:
    """Version of the pocketgan that this Python would import, in the environment it will have."""
    if sys.version_info < (3, 11):
        return None
    done = subprocess.run(
        [sys.executable, "-c", VERSION],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=30,
    )
    found = done.stdout.decode(errors="replace").strip().strip("[]").split(", ")[0].strip("'")
    return found or None


def put(request: Request, folder: str) -> Answer:
    """Write the plain files of an archive into a new folder; each must have its digest."""
    payload = Exactly(sys.stdin.buffer, request["bytes"])
    missing = dict(request["sha256"])
    try:
        into = os.path.join(folder, request["name"])
        os.mkdir(into)
        with tarfile.open(fileobj=payload, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                expected = missing.pop(member.name, None)
                content = archive.extractfile(member) if member.isreg() else None
                if expected is None or content is None:
                    raise ValueError(f"{member.name!r} was not announced")
                if copy(content, os.path.join(into, member.name)) != expected:
                    raise ValueError(f"{member.name} arrived damaged: its digest is another")
    finally:
        payload.drain()
    if missing:
        raise ValueError(f"{sorted(missing)} did not arrive")
    return {"done": True}


def copy(content: IO[bytes], path: str) -> str:
    """Write a file; return the SHA-256 of what lies on the disk, in hex."""
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            seen.update(chunk)
    return seen.hexdigest()


def unpack(request: Request, folder: str, env: Dict[str, str]) -> Answer:
    """Make a wheel of plain Python importable, before whatever is installed."""
    library = os.path.join(folder, LIBRARY)
    with zipfile.ZipFile(os.path.join(folder, request["name"])) as wheel:
        wheel.extractall(library)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [library, env.get("PYTHONPATH")]))
    return {"done": True}


def run(request: Request, folder: str, env: Dict[str, str]) -> Answer:
    """Run ``pocketgan`` in the folder; end it where it is late or the other side hangs up.

    Nothing wakes up here while it runs: that would be seen in what it measures.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", POCKETGAN] + request["arguments"],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert child.stdout is not None
    output = child.stdout.fileno()
    seconds = request["seconds"]
    started = time.monotonic()
    tail = b""
    try:
        while True:
            left = started + seconds - time.monotonic()
            ready = select.select([output, 0], [], [], max(0.0, left))[0]
            if not ready:
                raise ValueError(f"not done after {seconds:g} s")
            if 0 in ready:
                raise HungUpError  # nothing is said to us meanwhile, so this is the end of the line
            chunk = os.read(output, 1 << 16)
            if not chunk:
                break
            tail = (tail + chunk)[-TAIL_BYTES:]
        try:
            status = child.wait(timeout=max(GRACE_S, left))
        except subprocess.TimeoutExpired:
            raise ValueError(f"not done after {seconds:g} s") from None
    finally:
        end(child)
    return {"status": status, "said": tail.decode("ascii", "replace")}


def end(child: "subprocess.Popen[bytes]") -> None:
    """End a program and all it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(timeout=GRACE_S)
        except (ProcessLookupError, PermissionError):
            break
        except subprocess.TimeoutExpired:
            pass
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def pack(request: Request, folder: str) -> Answer:
    """Put the plain files of a folder into an archive beside it."""
    name = request["name"]
    with tarfile.open(os.path.join(folder, name + ".tar"), "w") as archive:
        for entry in sorted(os.listdir(os.path.join(folder, name))):
            path = os.path.join(folder, name, entry)
            if os.path.isfile(path) and not os.path.islink(path):
                archive.add(path, arcname=entry)
    return {"done": True}


def give(request: Request, folder: str) -> None:
    """Say how large a file is, then its bytes; more than the other side takes is an error."""
    path = os.path.join(folder, request["name"])
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > request["most"]:
            raise ValueError(f"{request['name']} has {size} bytes, the most is {request['most']}")
        say_line(json.dumps({"bytes": size}))
        content = Exactly(file, size)
        for chunk in iter(lambda: content.read(1 << 20), b""):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def remove_old(folder: str) -> str:
    """Remove the folder of an earlier connection, which must be one and ours.

    Where a link broke without a word, nobody has told the board: the earlier connection may still
    be there, and measuring.
    """
    name = os.path.basename(folder)
    if not name.startswith(PREFIX) or os.path.islink(folder):
        return f"{folder} is no folder of ours"
    if os.path.isdir(folder) and os.stat(folder).st_uid != os.getuid():
        return f"{folder} belongs to somebody else"
    end_workers(os.path.realpath(folder))
    return remove(folder)


def end_workers(folder: str) -> None:
    """End every program of ours that works in a folder, first by asking it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + 3 * GRACE_S
        found = workers(folder)
        for program in found:
            try:
                os.kill(program, number)
            except ProcessLookupError:
                continue
        while found and time.monotonic() < until:
            time.sleep(0.05)
            found = workers(folder)


def workers(folder: str) -> List[int]:
    """Process ids of our programs that work in a folder or below it, where there is a /proc."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        try:
            where = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            continue  # not a program, not ours, or gone
        if name.isdigit() and os.path.join(where, "").startswith(os.path.join(folder, "")):
            found.append(int(name))
    return found


def remove(folder: str) -> str:
    """Remove a folder and all that is in it; return why it is still there, or nothing."""
    if not folder:
        return ""
    why = ""
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return ""
        try:
            make_writable(folder)
            shutil.rmtree(folder)
        except OSError as error:  # also where an earlier connection is removing it just now
            why = str(error)
            time.sleep(0.2)
    return why if os.path.lexists(folder) else ""


def make_writable(folder: str) -> None:
    """Let what ran here have locked its folders: open them, so that they can be removed."""
    os.chmod(folder, 0o700)
    for where, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(where, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)


if __name__ == "__main__":
    sys.exit(main())
