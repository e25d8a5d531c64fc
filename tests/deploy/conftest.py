"""A tiny student, its export and a bundle made of it; no torch, no download, no training."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.artifacts import EXPORT, Bundle, StudentExport
from deploy.golden import GoldenPairs
from deploy.imaging import from_model, to_model
from deploy.manifests import ExportManifest, ModelSpec, Quality, QualityFloor, Teacher
from deploy.pipeline import deploy
from deploy.sealing import seal
from devices.profile import DeviceProfile, LatencyBudget

SIZE = 32
MakeStudent = Callable[..., onnx.ModelProto]
MakeExport = Callable[..., StudentExport]
MakeProfile = Callable[..., DeviceProfile]
Run = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]

EAGER = """
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps([80.0] * int(line)), flush=True)
"""


def photos(count: int, *, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Smooth random images with some noise: (count, size, size, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, size // 8, size // 8, 3))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(smooth + rng.normal(0, 9, smooth.shape), 0, 255).astype(np.uint8)


def student(*, seed: int = 0, axes: bool = False, op: str = "Relu") -> onnx.ModelProto:
    """Reflect Pad, Conv 3 -> 8, ReLU, Pad, Conv 8 -> 8, Add, Conv 8 -> 3, Tanh; opset 18."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fan_in = int(np.prod(shape[1:]))
        return numpy_helper.from_array(
            (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32), name
        )

    border = [1, 1, 1, 1] if axes else [0, 0, 1, 1, 0, 0, 1, 1]
    extra = ["", "axes"] if axes else []
    nodes = [
        helper.make_node("Pad", ["image", "border", *extra], ["p1"], "pad1", mode="reflect"),
        helper.make_node("Conv", ["p1", "w1", "b1"], ["c1"], "conv1"),
        helper.make_node(op, ["c1"], ["r1"], "act1"),
        helper.make_node("Pad", ["r1", "border", *extra], ["p2"], "pad2", mode="reflect"),
        helper.make_node("Conv", ["p2", "w2", "b2"], ["c2"], "conv2"),
        helper.make_node("Add", ["r1", "c2"], ["a"], "add"),
        helper.make_node("Conv", ["a", "w3", "b3"], ["c3"], "conv3"),
        helper.make_node("Tanh", ["c3"], ["translation"], "tanh"),
    ]
    stored = [
        weight("w1", 8, 3, 3, 3),
        weight("b1", 8),
        weight("w2", 8, 8, 3, 3),
        weight("b2", 8),
        weight("w3", 3, 8, 1, 1),
        weight("b3", 3),
        numpy_helper.from_array(np.array(border, dtype=np.int64), "border"),
    ]
    if axes:
        stored.append(numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "axes"))
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("translation", TensorProto.FLOAT, [1, 3, "h", "w"])],
        stored,
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset])
    )


def run_onnx(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def write_export(
    out: Path,
    model: onnx.ModelProto | None = None,
    *,
    golden_by: onnx.ModelProto | None = None,
    floor: QualityFloor | None = None,
    truth: bool = True,
    calibration: np.ndarray | None = None,
) -> StudentExport:
    model = model or student()
    source = photos(3, seed=1)
    outputs = run_onnx(golden_by or model, to_model(source))
    wanted = from_model(outputs).astype(np.int16)
    target = np.clip(wanted + 6, 0, 255).astype(np.uint8)

    def fill(folder: Path) -> Callable[[dict[str, str]], ExportManifest]:
        (folder / "student.onnx").write_bytes(model.SerializeToString())
        taken = photos(8, seed=2) if calibration is None else calibration
        np.savez_compressed(folder / "calibration.npz", source=taken)
        GoldenPairs(source, outputs, target if truth else None, target).write(folder / "golden.npz")
        (folder / "teacher.safetensors").write_bytes(b"not read here")
        return lambda sha256: ExportManifest(
            model=ModelSpec(
                name="tiny",
                task="paired",
                family="resnet",
                image_size=SIZE,
                size_multiple=1,
                params=900,
                macs=1_000_000,
                macs_published=1_200_000,
            ),
            teacher=Teacher(
                params=90_000, macs=60_000_000, macs_published=72_000_000, psnr_db=30.0, ssim=0.9
            ),
            student=Quality(psnr_db=29.5, ssim=0.89),
            student_to_teacher=Quality(psnr_db=33.0, ssim=0.95),
            channel_multiple=8,
            floor=floor or QualityFloor(psnr_db=25.0, truth_drop_db=2.0),
            lineage={"teacher": "sha256:" + "1" * 64, "recipe": "sha256:" + "2" * 64},
            versions={"torch": "2.13.0"},
            sha256=sha256,
        )

    seal(out, EXPORT, fill)
    return StudentExport.read(out)


def write_profile(**changes: Any) -> DeviceProfile:
    """A profile of the machine the tests run on."""
    facts = {
        "name": "here",
        "description": "this machine",
        "architecture": platform.machine(),
        "backends": ("openvino", "onnxruntime"),
        "execution_providers": ("CPUExecutionProvider",),
        "precisions": ("int8", "fp32"),
        "opset": 18,
        "image_size": SIZE,
        "threads": 1,
        "memory_mib": 512,
        "channel_multiple": 8,
        "budget": LatencyBudget(p50_ms=10, p90_ms=20, p99_ms=30),
        "source": "made up",
    }
    return DeviceProfile(**facts | changes)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines and weights of the user's own cache decide no test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., np.ndarray]:
    return photos


@pytest.fixture(scope="session")
def make_student() -> MakeStudent:
    return student


@pytest.fixture(scope="session")
def run() -> Run:
    return run_onnx


@pytest.fixture(scope="session")
def make_export() -> MakeExport:
    return write_export


@pytest.fixture(scope="session")
def make_profile() -> MakeProfile:
    return write_profile


@pytest.fixture(scope="session")
def eager(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A command that answers like the teacher's process, at once."""
    script = tmp_path_factory.mktemp("eager") / "eager.py"
    script.write_text(EAGER)
    return (sys.executable, str(script))


@pytest.fixture(scope="session")
def sealed_export(tmp_path_factory: pytest.TempPathFactory) -> StudentExport:
    """One export for all tests that only read it."""
    return write_export(tmp_path_factory.mktemp("sealed") / "export")


@pytest.fixture(scope="session")
def sealed_bundle(
    tmp_path_factory: pytest.TempPathFactory, sealed_export: StudentExport, eager: tuple[str, ...]
) -> Bundle:
    """One bundle for all tests that only read it, made by the whole pipeline."""
    out = tmp_path_factory.mktemp("sealed") / "bundle"
    return deploy(sealed_export, write_profile(), out, eager=eager)


@pytest.fixture
def stages() -> list[str]:
    return []


@pytest.fixture
def manifest_of() -> Callable[[Path], Any]:
    return lambda folder: json.loads((folder / "manifest.json").read_text())
