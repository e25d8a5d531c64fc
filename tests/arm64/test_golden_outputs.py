"""The bundle for an arm64 board gives on arm64 the images it gives here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from deploy.artifacts import Bundle, StudentExport
from deploy.engines import as_host
from deploy.golden import GoldenPairs
from deploy.imaging import to_model
from deploy.pipeline import deploy
from deploy.verify import psnr
from devices.profile import load_profile
from devices.session import open_session
from tests.arm64.root import command, make_root, missing_tools
from tests.conftest import ROOT
from tests.deploy.conftest import write_export

pytestmark = [pytest.mark.arm64, pytest.mark.slow]

HERE = Path(__file__).parent
BOARD = "raspberrypi5"
FLOAT_TOLERANCE = 1e-4
"""Two architectures add floats in another order; 2.9e-6 is usual."""
REAL = ROOT / "build" / "restore" / "cpu" / "export"
IMAGES = 2
"""Of 256 x 256 pixels; emulated, one takes seconds."""


@pytest.fixture(scope="session")
def arm64():
    lacks = missing_tools()
    if lacks:
        pytest.skip(f"arm64 cannot be emulated here: no {', '.join(lacks)}")
    return make_root(ROOT / "build" / "arm64")


def synthetic(folder):
    return write_export(folder / "export")


def real(folder):
    if not REAL.is_dir():
        pytest.skip(f"no {REAL.relative_to(ROOT)}: make compress")
    return StudentExport.read(REAL)


def both(arm64: Path, bundle: Bundle, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Golden images from torch, from the engine on this machine, and from it on arm64."""
    golden = GoldenPairs.read(bundle.golden)
    face = bundle.manifest
    session = open_session(
        bundle.engine, as_host(face.profile), backend="onnxruntime", precision=face.precision
    )
    count = min(IMAGES, len(golden.source))
    here = np.concatenate([session.run(to_model(image)) for image in golden.source[:count]])
    words, environment = command(
        arm64, str(HERE / "translate.py"), str(bundle.path), str(count), str(folder / "out.npz")
    )
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    facts = json.loads(ran.stdout)
    assert facts["architecture"] == "aarch64"
    assert facts["onnxruntime"] == json.loads((arm64 / "versions.json").read_text())["onnxruntime"]
    with np.load(folder / "out.npz") as arrays:
        there = arrays["images"]
    print(
        f"\n{face.model.name} {face.precision}, {len(there)} images, {facts['seconds']} s each: "
        f"{np.abs(there - here).max():.2g} from this machine, "
        f"{psnr(there, golden.student[:count], data_range=2.0):.1f} dB to the float student"
    )
    return golden.student[:count], here, there


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("make", [synthetic, real])
def test_arm64_gives_the_golden_images(arm64, make, precision, tmp_path):
    precisions = ("int8", "fp32") if precision == "int8" else ("fp32",)
    profile = load_profile(BOARD).model_copy(update={"precisions": precisions})
    bundle = deploy(make(tmp_path), profile, tmp_path / "bundle")
    assert bundle.manifest.precision == precision
    golden, here, there = both(arm64, bundle, tmp_path)

    assert there.shape == golden.shape
    if precision == "fp32":
        assert np.abs(there - here).max() < FLOAT_TOLERANCE
        assert np.abs(there - golden).max() < FLOAT_TOLERANCE
    else:
        ours, theirs = (psnr(images, golden, data_range=2.0) for images in (here, there))
        assert theirs >= bundle.manifest.floor.psnr_db
        # where layers are left in float, a sum that rounds otherwise moves a value to
        # the next of 256 steps; where all are integer nothing moves
        assert psnr(there, here, data_range=2.0) > 50
        assert abs(theirs - ours) < 0.1


def test_a_flipped_byte_is_noticed_on_arm64(arm64, tmp_path):
    profile = load_profile(BOARD).model_copy(update={"precisions": ("fp32",)})
    bundle = deploy(synthetic(tmp_path), profile, tmp_path / "bundle")
    damaged = bytearray(bundle.engine.read_bytes())
    damaged[-1] ^= 1
    bundle.engine.write_bytes(damaged)
    words, environment = command(
        arm64, str(HERE / "translate.py"), str(bundle.path), "1", str(tmp_path / "out.npz")
    )
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 1
    assert f"{bundle.manifest.engine_file} has the digest" in ran.stderr
