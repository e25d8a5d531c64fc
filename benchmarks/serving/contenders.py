"""What overhead.py compares: pocketgan and three serving frameworks around the same engine."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servers import ROOT, Server, free_port, pocketgan, running

ENVIRONMENTS = ROOT / "build" / "serving-rivals"
APPS = Path(__file__).parent / "rivals"

SAME_VERSION = ("numpy", "openvino", "pillow", "pydantic")
"""What decodes, computes and encodes has the version it has here."""
ALSO = ("cryptography", "psutil", "rich")


@dataclass(frozen=True)
class Rival:
    """A serving framework in an environment of its own.

    Attributes:
        name: As the table shows it.
        requirement: What pip installs.
        arguments: After its Python; ``{app}``, ``{bundle}`` and ``{port}`` are filled in.
        env: Beside this process's environment, filled in likewise; ``{folder}`` is for
            what it writes.
    """

    name: str
    requirement: str
    arguments: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Its virtual environment."""
        return ENVIRONMENTS / self.requirement.partition("[")[0].partition(">")[0]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def version(self) -> str:
        """Of the framework as it is installed."""
        package = self.folder.name
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()


RIVALS = (
    Rival(
        "LitServe",
        "litserve>=0.2.17",
        ("{app}/litserve_app.py", "{bundle}", "{port}"),
    ),
    Rival(
        "BentoML",
        "bentoml>=1.4.39",
        (
            *("-m", "bentoml", "serve", "bentoml_app:Translate", "--working-dir", "{app}"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        {"BUNDLE": "{bundle}", "BENTOML_HOME": "{folder}", "BENTOML_DO_NOT_TRACK": "True"},
    ),
    Rival(
        "Ray Serve",
        "ray[serve]>=2.50",
        ("{app}/ray_app.py", "{bundle}", "{port}"),
        {
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": "{folder}",
        },
    ),
)


def install(rival: Rival) -> None:
    """Make its environment, if it is not there whole."""
    if (rival.folder / "installed").exists():
        return
    print(f"installing {rival.name} into {rival.folder} (once)", file=sys.stderr, flush=True)
    venv.create(rival.folder, with_pip=True)
    same = [f"{name}=={importlib.metadata.version(name)}" for name in SAME_VERSION]
    subprocess.run(
        [rival.python, "-m", "pip", "install", "--quiet", rival.requirement, *same, *ALSO],
        check=True,
    )
    (rival.folder / "installed").touch()


@contextmanager
def started(rival: Rival | None, bundle: Path, folder: Path, *, core: int) -> Iterator[Server]:
    """Run a rival, or pocketgan if that is None, pinned to a core.

    What it prints is in ``folder``, which also takes what it writes.
    """
    name = rival.folder.name if rival else "pocketgan"
    log = folder / f"{name}.log"
    if rival is None:
        with pocketgan(bundle, core=core, log=log) as server:
            yield server
        return
    port = free_port()
    filled = {
        "app": str(APPS),
        "bundle": str(bundle.resolve()),
        "port": str(port),
        "folder": str(folder),
    }
    env = {key: value.format(**filled) for key, value in rival.env.items()} | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{rival.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    command = [rival.python, *(part.format(**filled) for part in rival.arguments)]
    body = (folder / "photo.jpg").read_bytes()
    with running(
        command, port, core=core, ready="/v1/translate", body=body, env=env, log=log
    ) as server:
        yield server
