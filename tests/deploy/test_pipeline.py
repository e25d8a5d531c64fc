from __future__ import annotations

import re
import shutil
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploy import engines, record
from deploy.artifacts import Bundle, StudentExport
from deploy.engines import plan
from deploy.manifests import QualityFloor
from deploy.pipeline import STAGES, deploy
from devices import machine
from devices.sealed import MANIFEST
from devices.session import DeviceError, open_session

FLOAT_ONLY = {"precisions": ("fp32",), "backends": ("onnxruntime",)}
ELSEWHERE = {"execution_providers": ("TensorrtExecutionProvider", "CUDAExecutionProvider")}


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_has_one_engine_and_tells_of_all(sealed_bundle, sealed_export):
    manifest = sealed_bundle.manifest
    names = list(dict.fromkeys(f"{c.backend} {c.precision}" for c in manifest.candidates))
    assert names == ["openvino int8", "onnxruntime int8", "openvino fp32", "onnxruntime fp32"]
    shipped = [c for c in manifest.candidates if c.shipped]
    assert [(c.backend, c.precision) for c in shipped] == [(manifest.backend, manifest.precision)]
    fastest_float = min(c.p50_ms for c in manifest.candidates if c.precision == "fp32")
    assert shipped[0].p50_ms <= fastest_float
    for one in manifest.candidates:
        assert one.psnr_db >= (90 if one.precision == "fp32" else 20)
        assert (one.quantizer is not None) == (one.precision == "int8")
        assert one.engine_bytes > 0
        assert one.truth_psnr_db > 20
        assert one.reason
    assert manifest.compiled
    assert manifest.latency.samples == 50
    assert manifest.latency.p50_ms <= manifest.latency.p90_ms
    assert manifest.latency.p50_ms == pytest.approx(shipped[0].p50_ms)
    assert manifest.latency.load_ms > 0 < manifest.latency.first_ms
    assert manifest.teacher.torch_eager_p50_ms == 80.0
    assert manifest.student == sealed_export.manifest.student
    assert manifest.lineage["teacher"] == sealed_export.manifest.lineage["teacher"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", manifest.lineage["export"])
    assert set(manifest.versions) >= {"python", "onnx", "onnxruntime", "nncf", "numpy"}
    assert manifest.machine["fingerprint"]
    assert re.fullmatch(r"\d+\.\d cores", manifest.machine["neighbours"])


def test_the_engine_of_a_bundle_runs_any_size(sealed_bundle):
    manifest = sealed_bundle.manifest
    session = open_session(
        sealed_bundle.engine,
        manifest.profile,
        backend=manifest.backend,
        precision=manifest.precision,
    )
    for height, width in ((32, 32), (24, 40)):
        image = np.zeros((1, 3, height, width), np.float32)
        assert session.run(image).shape == image.shape


@pytest.fixture
def ways(sealed_export, make_profile, eager, tmp_path):
    """Deploy float only, which takes no time, and note what is told."""
    told = []

    def go(export=sealed_export, out=tmp_path / "bundle", force=False, **changes):
        told.clear()
        return deploy(
            export,
            make_profile(**FLOAT_ONLY | changes),
            out,
            progress=lambda stage, text: told.append((stage, text)),
            force=force,
            eager=eager,
        )

    go.told = told
    return go


def test_every_stage_tells_what_it_came_to(ways, tmp_path):
    ways()
    assert [stage for stage, _ in ways.told] == list(range(1, len(STAGES) + 1))
    texts = [text for _, text in ways.told]
    assert texts[0] == "tiny: 0.00 M parameters, 0.00 GMACs, 3 golden pairs"
    assert texts[2] == "left out: the profile wants no INT8"
    assert texts[3] == "onnxruntime fp32"
    assert texts[4] == "onnxruntime fp32 100.0 dB"
    assert re.match(r"onnxruntime fp32 \d+\.\d ms, teacher 80\.0 ms(; other processes|$)", texts[5])
    assert texts[6] == "onnxruntime fp32: fastest of 1 that may ship"
    assert texts[7] == str(tmp_path / "bundle")


def test_twice_is_once(ways, tmp_path):
    first = ways()
    before = snapshot(first.path)
    again = ways()
    assert ways.told == [(1, f"up to date: {first.path} was made from this export for this device")]
    assert again.manifest == first.manifest
    assert snapshot(first.path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_force_makes_it_again(ways):
    ways()
    ways(force=True)
    assert len(ways.told) == len(STAGES)


def test_another_profile_export_or_a_damaged_bundle_is_made_again(ways, make_export, tmp_path):
    first = ways()
    ways(threads=2)
    assert len(ways.told) == len(STAGES)
    (first.path / "engine.onnx").write_bytes(b"damaged")
    ways(threads=2)
    assert len(ways.told) == len(STAGES)
    other = make_export(tmp_path / "other", floor=QualityFloor(psnr_db=20.0, truth_drop_db=1.0))
    ways(other, threads=2)
    assert len(ways.told) == len(STAGES)


def test_another_version_or_machine_is_made_again(ways, monkeypatch):
    ways()
    real = machine.metadata.version
    with monkeypatch.context() as context:
        context.setattr(machine.metadata, "version", lambda n: "0.0" if n == "onnx" else real(n))
        ways()
    assert len(ways.told) == len(STAGES)
    ways()
    assert len(ways.told) == len(STAGES)
    with monkeypatch.context() as context:
        context.setattr("devices.machine.Machine.fingerprint", lambda machine: "another machine")
        ways()
    assert len(ways.told) == len(STAGES)


def test_float_is_made_for_a_profile_that_does_not_ask_for_it(make_profile):
    profile = make_profile(precisions=("int8", "bf16"))
    assert plan(profile, compiled=True) == [
        ("openvino", "int8"),
        ("onnxruntime", "int8"),
        ("openvino", "bf16"),
        ("openvino", "fp32"),
        ("onnxruntime", "fp32"),
    ]
    assert plan(profile, compiled=False) == [("openvino", "int8"), ("openvino", "fp32")]
    jetson = make_profile(
        backends=("onnxruntime",), precisions=("int8", "fp16", "fp32"), **ELSEWHERE
    )
    assert [p for _, p in plan(jetson, compiled=False)] == ["int8", "fp16", "fp32"]
    assert [p for _, p in plan(jetson, compiled=True)] == ["int8", "fp16", "fp32"]


def test_a_machine_that_is_not_the_device(sealed_export, make_profile, eager, tmp_path):
    told = []
    bundle = deploy(
        sealed_export,
        make_profile(
            name="board",
            backends=("onnxruntime",),
            precisions=("int8", "fp16", "fp32"),
            opset=17,
            threads=64,
            **ELSEWHERE,
        ),
        tmp_path / "bundle",
        progress=lambda stage, text: told.append(text),
        eager=eager,
    )
    manifest = bundle.manifest
    assert not manifest.compiled
    assert manifest.latency is manifest.teacher.torch_eager_p50_ms is None
    assert (manifest.backend, manifest.precision) == ("onnxruntime", "int8")
    assert list(dict.fromkeys(c.precision for c in manifest.candidates)) == ["int8", "fp16", "fp32"]
    assert all(c.p50_ms is None and c.psnr_db >= 20 for c in manifest.candidates)
    assert manifest.profile.execution_providers == ELSEWHERE["execution_providers"]
    assert told[5] == "left out: this machine is not the device"
    model = onnx.load(bundle.engine)
    assert model.opset_import[0].version == 17
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zeros = [arrays[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert len(zeros) >= 3
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros), (
        "TensorRT reads no other"
    )


def test_without_torch_the_teacher_has_no_latency(ways, sealed_export, make_profile, tmp_path):
    bundle = deploy(
        sealed_export,
        make_profile(**FLOAT_ONLY),
        tmp_path / "bundle",
        eager=(sys.executable, "-c", "import torch_that_is_not_there"),
    )
    assert bundle.manifest.teacher.torch_eager_p50_ms is None
    assert bundle.manifest.latency.samples == 50


def test_a_teacher_that_dies_is_left_out(sealed_export, make_profile, tmp_path, caplog):
    dying = "print('ready', flush=True); input(); raise SystemExit('out of memory')"
    bundle = deploy(
        sealed_export,
        make_profile(**FLOAT_ONLY),
        tmp_path / "bundle",
        eager=(sys.executable, "-c", dying),
    )
    assert bundle.manifest.teacher.torch_eager_p50_ms is None
    assert bundle.manifest.latency.samples == 50
    assert "out of memory; measuring without it" in caplog.text


def test_an_engine_that_fails_is_noted_and_another_ships(ways, monkeypatch):
    real = engines.open_session

    def picky(engine, profile, *, backend, precision):
        if backend == "openvino":
            raise DeviceError("openvino does not like it here")
        return real(engine, profile, backend=backend, precision=precision)

    monkeypatch.setattr(engines, "open_session", picky)
    bundle = ways(backends=("openvino", "onnxruntime"))
    assert [c.reason for c in bundle.manifest.candidates] == [
        "openvino does not like it here",
        "fastest of 1 that may ship",
    ]
    assert ways.told[4] == (5, "openvino fp32 failed, onnxruntime fp32 100.0 dB")


def test_a_runtime_that_is_not_installed_is_noted(ways, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "deploy.backends.openvino", raising=False)
    bundle = ways(backends=("openvino", "onnxruntime"))
    reason = "openvino is not installed: pip install openvino"
    assert bundle.manifest.candidates[0].reason == reason
    assert bundle.manifest.backend == "onnxruntime"


def test_a_broken_export_is_called_broken(ways, make_export, make_student, tmp_path):
    broken = make_export(tmp_path / "export", make_student(seed=0), golden_by=make_student(seed=9))
    with pytest.raises(
        ValueError, match=r"the float engine \(onnxruntime fp32\) differs from torch"
    ):
        ways(broken)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_floor_no_engine_reaches(ways, make_export, tmp_path):
    export = make_export(tmp_path / "export", floor=QualityFloor(psnr_db=101.0, truth_drop_db=9.0))
    with pytest.raises(
        ValueError, match=r"onnxruntime fp32: 100\.0 dB to the float student, floor 1"
    ):
        ways(export)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_device_that_lacks_an_operator(ways, tmp_path):
    with pytest.raises(ValueError, match="here cannot run Tanh"):
        ways(unsupported_operators=("Tanh",))
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_set_that_would_do_harm(
    make_export, make_profile, make_photos, eager, tmp_path
):
    export = make_export(tmp_path / "export", calibration=make_photos(3))
    with pytest.raises(ValueError, match="calibration has 3 images; it takes 8"):
        deploy(export, make_profile(), tmp_path / "bundle", eager=eager)


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_no_half_bundle(exists, ways, monkeypatch, tmp_path):
    if exists:
        ways(threads=2)
        before = snapshot(tmp_path / "bundle")
    real = shutil.copyfile

    def copyfile(source, target, **options):
        if target.name == "golden.npz":
            real(source, target, **options)
            with target.open("r+b") as file:
                file.truncate(100)
            raise OSError(28, "No space left on device", str(target))
        return real(source, target, **options)

    monkeypatch.setattr(record.shutil, "copyfile", copyfile)
    with pytest.raises(OSError, match="No space left on device"):
        ways()
    if exists:
        assert snapshot(tmp_path / "bundle") == before
        assert Bundle.read(tmp_path / "bundle").manifest.profile.threads == 2
    assert [path.name for path in tmp_path.iterdir()] == (["bundle"] if exists else [])


def test_an_out_that_holds_something_else_is_kept(ways, tmp_path):
    out = tmp_path / "home"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"home is in the way: it holds no manifest\.json"):
        ways(out=out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_an_export_read_again_is_the_same(sealed_export):
    assert StudentExport.read(sealed_export.path) == sealed_export
    assert MANIFEST not in {path.name for path in sealed_export.path.iterdir()}
