"""Our TensorRT code against the real interface of each version: types, and what loads.

Needs the bindings' wheels, unpacked, in one folder per version; they are not fetched here:

    pip download --no-deps --only-binary=:all: tensorrt_bindings==8.6.1   # 10.3.0, 11.4.0.106:
    pip download --no-deps tensorrt_cu12_bindings==10.3.0
    python -m zipfile -e tensorrt_cu12_bindings-10.3.0-*.whl FOLDER/10.3.0
    POCKETGAN_TEST_TENSORRT_STUBS=FOLDER pytest tests/tensorrt/test_stubs.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devices.trt_plan import numbers, strongly_typed
from tests.conftest import ROOT
from tests.tensorrt.record import environment, stand_ins
from tests.tensorrt.stubs import write_stubs

VARIABLE = "POCKETGAN_TEST_TENSORRT_STUBS"
FOLDER = Path(os.environ.get(VARIABLE, "/nowhere"))
VERSIONS = sorted(path.name for path in FOLDER.iterdir()) if FOLDER.is_dir() else []

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VERSIONS, reason=f"{VARIABLE} names no folder of unpacked wheels"),
    pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler"),
]

SHARED = (
    "deploy/backends/trt.py",
    "deploy/backends/trt_dla.py",
    "devices/trt.py",
    "devices/trt_log.py",
)
WEAK = "deploy/backends/trt_weak.py"
STRONG = "deploy/backends/trt_strong.py"
PROGRESS = "deploy/backends/trt_progress.py"
BINDINGS = "devices/trt_bindings.py"


def files_for(version: str) -> list[str]:
    """What runs with a version."""
    files = [*SHARED, STRONG if strongly_typed(version) else WEAK]
    if numbers(version) >= (10,):
        files.append(PROGRESS)
    else:
        files.append(BINDINGS)
    return files


def check(stubs: Path, cache: Path, files: list[str]) -> subprocess.CompletedProcess[str]:
    """Run mypy as the project does, with these stubs in place of a missing package."""
    return subprocess.run(
        [
            sys.executable,
            *("-m", "mypy"),
            *("--config-file", ROOT / "pyproject.toml"),
            *("--cache-dir", cache),
            "--follow-imports=silent",
            *files,
        ],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    made: dict[str, Path] = {}

    def of(version: str) -> Path:
        if version not in made:
            made[version] = write_stubs(FOLDER / version, tmp_path_factory.mktemp(version))
        return made[version]

    return of


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What mypy knows of numpy and onnx is the same for every version."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.parametrize("version", VERSIONS)
def test_what_runs_with_a_version_fits_its_types(stubs, cache, version):
    checked = check(stubs(version), cache, files_for(version))
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("version", [v for v in VERSIONS if v.startswith("11")])
def test_what_does_not_run_with_11_is_caught_there(stubs, cache, version):
    checked = check(stubs(version), cache, [WEAK, BINDINGS])
    for name in ("EXPLICIT_BATCH", "FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "num_bindings"):
        assert f'has no attribute "{name}"' in checked.stdout


LOADS = """
import sys
import tensorrt_bindings as trt
sys.modules["tensorrt"] = trt
from deploy.backends import trt as builder, trt_strong, trt_weak
from devices import trt as runner
from devices.trt_log import Messages
from devices.trt_plan import strongly_typed

messages = Messages()
messages.log(trt.ILogger.Severity.ERROR, " no ")
messages.log(trt.ILogger.Severity.VERBOSE, "all of it")
assert messages.errors == ["no"], messages.errors
assert tuple(trt.Dims([1, 3, -1, -1])[:]) == (1, 3, -1, -1)
strong = strongly_typed(trt.__version__)
flags = (trt_strong if strong else trt_weak).network_flags()
if hasattr(trt, "IProgressMonitor"):
    from deploy.backends.trt_progress import Progress
    progress = Progress()
    assert isinstance(progress, trt.IProgressMonitor)
    assert progress.step_complete("build", 0)
    progress.stop()
    assert not progress.step_complete("build", 1)
try:
    trt.Builder(messages)
except TypeError:
    pass  # it takes our logger, and there is nothing behind it to build with
print(strong, flags, builder.native_norms(), hasattr(trt.IExecutionContext, "execute_async_v3"))
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_our_classes_extend_the_real_ones(version, tmp_path):
    wheel = FOLDER / version
    variables = environment(wheel, stand_ins(wheel, tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", LOADS],
        cwd=ROOT,
        env=variables | {"PYTHONPATH": f"{wheel}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # EXPLICIT_BATCH is bit 0, STRONGLY_TYPED bit 1; TensorRT 11 wants neither
    strong = strongly_typed(version)
    flags = 0 if version.startswith("11") else 2 if strong else 1
    assert done.stdout.split() == [str(strong), str(flags), "True", "True"]
