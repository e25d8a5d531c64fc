"""The built wheel, installed as the Dockerfile installs it, in an environment of its own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from deploy.golden import GoldenPairs
from deploy.imaging import decode, to_model
from deploy.manifests import Manifest
from deploy.sealing import seal
from tests.pictures import encode_png

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "serving" / "manifest.json"

MOST_MB = 250
"""Megabytes (10^6 bytes) of the installed environment."""


def dockerfile_extras() -> str:
    """The extras that the image is made with where nobody says otherwise."""
    text = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"^RUN .*pip .*install .*\.whl\)\[\$\{EXTRAS\}\]", text, re.M)
    assert len(installs) == 1, "the Dockerfile installs the wheel in one line"
    (extras,) = re.findall(r"^ARG EXTRAS=([a-z,]+)$", text, re.M)
    return extras


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """The folder of programs of an empty environment with nothing but the wheel and its extras."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    succeed(sys.executable, *build)
    (wheel,) = folder.glob("pocketgan-*.whl")
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    constraints = ROOT / "constraints.txt"
    held = ["--constraint", str(constraints)] if constraints.exists() else []
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *held]
    succeed(programs / "python", *install, f"{wheel}[{dockerfile_extras()}]")
    return programs


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A sealed bundle whose engine makes the negative of an image."""
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("input", "output")
    ]
    node = helper.make_node("Neg", ["input"], ["output"])
    model = helper.make_model(
        helper.make_graph([node], "negative", images[:1], images[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    source = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    manifest = Manifest.model_validate_json(SAMPLE.read_text())

    def fill(folder: Path):
        (folder / "engine.onnx").write_bytes(model.SerializeToString())
        GoldenPairs(source, -to_model(source), None, source).write(folder / "golden.npz")
        return lambda sha256: manifest.model_copy(update={"sha256": sha256})

    seal(tmp_path / "bundle", "manifest.json", fill)
    return tmp_path / "bundle"


def run(*command: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program away from the checkout, so that only what is installed is found."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )


def succeed(*command: str | Path, folder: Path | None = None) -> str:
    done = run(*command, folder=folder)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_image_is_made_for_serving_alone():
    assert dockerfile_extras() == "serving"


def test_what_is_installed_is_small(environment):
    packages = environment.parent / "lib"
    # pip is not in the image: the Dockerfile makes its environment without
    parts = [path for path in packages.rglob("*") if path.is_file() and not is_pip(path)]
    assert sum(path.stat().st_size for path in parts) < MOST_MB * 1e6


def is_pip(path: Path) -> bool:
    """Is it one of the files that every new environment holds?"""
    return bool(re.search(r"site-packages/(pip|setuptools|pkg_resources|_distutils)", str(path)))


@pytest.mark.parametrize("stranger", ["torch", "onnx", "nncf", "openvino"])
def test_nothing_heavy_is_installed(environment, tmp_path, stranger):
    done = run(environment / "python", "-c", f"import {stranger}", folder=tmp_path)
    assert f"No module named '{stranger}'" in done.stderr


@pytest.mark.parametrize("module", ["serving.app", "onnxruntime"])
def test_what_serving_needs_is_installed(environment, tmp_path, module):
    succeed(environment / "python", "-c", f"import {module}", folder=tmp_path)


def test_the_program_lists_its_commands(environment, tmp_path):
    assert "serve" in succeed(environment / "pocketgan", "--help", folder=tmp_path)


def test_a_missing_extra_is_named(environment, tmp_path):
    done = run(
        environment / "pocketgan", "compress", "restore", "--device", "cpu", "--out", "x",
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'pocketgan[compress]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bundle_is_served(environment, tmp_path, bundle):
    pixels = np.random.default_rng(1).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [environment / "pocketgan", "serve", bundle, "--port", str(port)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as server:
        try:
            wait_until_ready(port)
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/translate", data=encode_png(pixels)
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                answer = response.read()
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()
    np.testing.assert_array_equal(decode(answer), 255 - pixels)


def wait_until_ready(port: int) -> None:
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
                return
        except urllib.error.HTTPError as error:
            error.close()  # it listens, and warms up
        except urllib.error.URLError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise AssertionError("the server never got ready")
