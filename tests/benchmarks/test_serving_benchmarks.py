"""The benchmarks of the server run, short, against a tiny engine: what they say, not how fast."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from deploy.golden import GoldenPairs
from deploy.imaging import to_model
from deploy.manifests import Manifest
from deploy.sealing import seal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
        reason="needs two processors: one for the server, one for its clients",
    ),
]

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "serving" / "manifest.json"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A sealed bundle whose engine, run by ONNX Runtime, makes the negative of an image."""
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("input", "output")
    ]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Neg", ["input"], ["output"])], "negative", images[:1], images[1:]
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    source = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    manifest = Manifest.model_validate_json(SAMPLE.read_text())

    def fill(folder: Path):
        (folder / "engine.onnx").write_bytes(model.SerializeToString())
        GoldenPairs(source, -to_model(source), None, source).write(folder / "golden.npz")
        return lambda sha256: manifest.model_copy(update={"sha256": sha256})

    out = tmp_path_factory.mktemp("benchmarks") / "bundle"
    seal(out, "manifest.json", fill)
    return out


def run(script: str, bundle: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "serving" / script, bundle, "--short"]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
def test_overhead_compares_with_the_loop_at_every_number_of_clients(bundle):
    done = run("overhead.py", bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| pocketgan \| (\d+) \| [\d.]+ \| [\d.]+ \(", done.stdout, re.M)
    assert rows == ["1", "4", "16"]


def test_overload_answers_or_refuses_and_keeps_its_memory(bundle):
    done = run("overload.py", bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed: memory" in done.stdout
    assert re.search(r"^200: \d+ of \d+ ", done.stdout, re.M)


def test_soak_finds_every_answer_right_and_every_broken_bundle_refused(bundle):
    done = run("soak.py", bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 right, 0 failed" in done.stdout
    assert "swapped 2 times of 2" in done.stdout
    assert "refused 5 broken bundles of 5" in done.stdout


def test_fuzz_finds_only_refusals(bundle):
    done = run("fuzz.py", bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "400 requests" in done.stdout
    assert "0 wrong" in done.stdout
