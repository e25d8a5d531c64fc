"""What deploy makes of a student besides the obvious: the whole pipeline, on tiny networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from deploy import quantize
from deploy.adopt import adopt
from deploy.artifacts import SBOM, Bundle
from deploy.cache import EngineCache
from deploy.evidence import read_evidence
from deploy.imaging import range_spec
from deploy.manifests import EVIDENCE, QualityFloor
from deploy.pipeline import deploy
from deploy.precision_plan import PLAN, LayerPrecision, PrecisionPlan
from deploy.reverting import quantized_layers
from deploy.sealing import seal

pytestmark = pytest.mark.slow  # whole deployments

CPU_ONLY = {"backends": ("onnxruntime",)}
ELSEWHERE = {"board": "a board that this machine is not", "backends": ("openvino",)}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_holds_its_evidence(sealed_bundle):
    manifest, evidence = sealed_bundle.manifest, read_evidence(sealed_bundle)
    assert {EVIDENCE, SBOM} <= set(manifest.sha256)
    assert [one.layer for one in evidence.sensitivity if one.operator != "Conv"] == []
    assert sorted(one.layer for one in evidence.sensitivity) == ["conv1", "conv2", "conv3"]
    psnr = [one.psnr_db for one in evidence.sensitivity]
    assert psnr == sorted(psnr)
    assert evidence.calibration.images == 8
    assert "8 images" in evidence.calibration.warnings[0]
    assert set(evidence.samples_ms) >= {"teacher", "openvino fp32", "onnxruntime fp32"}
    engines = [ms for name, ms in evidence.samples_ms.items() if name != "teacher"]
    assert len(engines) == len(manifest.candidates)
    assert all(len(ms) == 50 for ms in engines)
    assert evidence.machine.fingerprint() == manifest.machine["fingerprint"]


def test_lineage_leads_from_the_teacher_to_the_engine(sealed_bundle):
    lineage = sealed_bundle.manifest.lineage
    steps = [name for name in lineage if name != "git"]
    assert steps[:2] == ["teacher", "recipe"]
    assert steps[-1] == "engine"
    assert lineage["engine"] == f"sha256:{sealed_bundle.manifest.sha256['engine.onnx']}"
    assert ("quantization" in steps) == (sealed_bundle.manifest.precision == "int8")


@pytest.mark.parametrize("backends", [("openvino",), ("onnxruntime",)])
def test_a_bad_int8_does_not_ship(
    backends, sealed_export, make_profile, eager, tmp_path, monkeypatch
):
    """Weights scaled to a tenth: fast and wrong, in whatever way quality control turns it."""
    real = quantize.by_nncf, quantize.by_onnxruntime

    def spoilt(model):
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.dtype == np.int8 and array.ndim == 4:
                tensor.CopyFrom(numpy_helper.from_array(array // 10, tensor.name))
        return model

    monkeypatch.setattr(quantize, "by_nncf", lambda *a, **k: spoilt(real[0](*a, **k)))
    monkeypatch.setattr(quantize, "by_onnxruntime", lambda *a, **k: spoilt(real[1](*a, **k)))
    profile = make_profile(backends=backends)
    bundle = deploy(sealed_export, profile, tmp_path / "bundle", eager=eager)
    assert bundle.manifest.precision == "fp32"
    refused = [one for one in bundle.manifest.candidates if one.precision == "int8"]
    assert refused
    for one in refused:
        assert one.psnr_db < bundle.manifest.floor.psnr_db
        assert one.reason == f"{one.psnr_db:.1f} dB to the float student, floor 25"


def test_quality_control_leads_an_engine_back_to_the_floor(
    make_export, make_profile, eager, tmp_path
):
    floor = QualityFloor(psnr_db=44.0, truth_drop_db=9.0)
    export = make_export(tmp_path / "export", floor=floor)
    profile = make_profile(**CPU_ONLY, precisions=("int8",))
    bundle = deploy(export, profile, tmp_path / "bundle", eager=eager)
    led_back = [one for one in bundle.manifest.candidates if "in float" in (one.quantizer or "")]
    assert led_back
    assert all("1 of 3 layers in float" in one.quantizer for one in led_back)
    assert all(one.psnr_db >= 44 for one in led_back)
    assert [path.name for path in tmp_path.iterdir() if "resume" in path.name] == []


def test_a_run_that_was_stopped_keeps_what_it_measured(
    sealed_export, make_profile, tmp_path, monkeypatch
):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.pipeline.measure_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        deploy(sealed_export, make_profile(**CPU_ONLY), tmp_path / "bundle")
    (kept,) = (tmp_path / ".bundle-resume").iterdir()
    assert kept.read_text().count('"layer"') == 3

    def unwanted(*args, **kwargs):
        raise AssertionError("measured again")

    monkeypatch.setattr("deploy.sensitivity.only", unwanted)
    with pytest.raises(KeyboardInterrupt):
        deploy(sealed_export, make_profile(**CPU_ONLY), tmp_path / "bundle")


def test_what_is_not_measured_is_the_same_to_the_bit(sealed_export, make_profile, tmp_path):
    profile = make_profile(**ELSEWHERE)
    first = deploy(sealed_export, profile, tmp_path / "first")
    second = deploy(sealed_export, profile, tmp_path / "second")
    assert not first.manifest.compiled
    assert files(first.path) == files(second.path)


def test_what_is_measured_has_the_same_content(sealed_export, make_profile, eager, tmp_path):
    profile = make_profile(**CPU_ONLY, precisions=("fp32",))
    first = deploy(sealed_export, profile, tmp_path / "first", eager=eager)
    second = deploy(sealed_export, profile, tmp_path / "second", eager=eager)
    assert first.manifest.latency != second.manifest.latency
    assert first.manifest.content_sha256 == second.manifest.content_sha256 != ""
    changed = make_profile(**CPU_ONLY, precisions=("fp32",), threads=2)
    third = deploy(sealed_export, changed, tmp_path / "third", eager=eager)
    assert third.manifest.content_sha256 != first.manifest.content_sha256


def test_a_precision_plan_is_honoured(sealed_export, make_profile, tmp_path):
    planned = tmp_path / "export"
    face = sealed_export.manifest
    plan = PrecisionPlan(
        layers=(
            LayerPrecision(layer="conv2", precision="fp16", score=3.0),
            LayerPrecision(layer="conv1", precision="int8", score=1.0),
        ),
        mean_bits=10.0,
    )

    def fill(folder):
        for name in face.sha256:
            (folder / name).write_bytes((sealed_export.path / name).read_bytes())
        (folder / PLAN).write_text(plan.model_dump_json())
        return lambda sha256: face.model_copy(update={"sha256": sha256})

    seal(planned, "export.json", fill)
    bundle = deploy(type(sealed_export).read(planned), make_profile(**ELSEWHERE), tmp_path / "b")
    assert bundle.manifest.precision == "int8"
    assert sorted(quantized_layers(onnx.load(bundle.engine))) == ["conv1", "conv3"]


def test_what_a_device_runs_badly_is_tried_in_another_form(
    sealed_export, make_profile, eager, tmp_path
):
    profile = make_profile(
        **CPU_ONLY, precisions=("fp32",), slow_operators=("Pad(reflect)",), image_size=32
    )
    bundle = deploy(sealed_export, profile, tmp_path / "bundle", eager=eager)
    plain, other = bundle.manifest.candidates
    assert plain.variant == "as exported"
    assert other.variant not in ("", plain.variant)
    assert other.psnr_db == plain.psnr_db == 100.0
    assert set(read_evidence(bundle).samples_ms) == {
        "onnxruntime fp32",
        f"onnxruntime fp32 ({other.variant})",
        "teacher",
    }


def test_an_engine_is_compiled_once(sealed_export, make_profile, eager, tmp_path, monkeypatch):
    cache = EngineCache(tmp_path / "cache")
    profile = make_profile(**CPU_ONLY, precisions=("fp32",))
    first = deploy(sealed_export, profile, tmp_path / "first", eager=eager, cache=cache)
    monkeypatch.delattr("deploy.backends.ort.compile_onnx")
    second = deploy(sealed_export, profile, tmp_path / "second", eager=eager, cache=cache)
    assert first.engine.read_bytes() == second.engine.read_bytes()


def test_a_generator_that_comes_alone(make_student, make_profile, make_photos, tmp_path, run):
    """Blue, green, red in [0, 1], where compress makes red, green, blue in [-1, 1]."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, pixels in enumerate(make_photos(12, seed=5, size=64)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    model = make_student()
    (tail,) = (node for node in model.graph.node if node.op_type == "Tanh")
    tail.op_type = "Sigmoid"
    onnx.save(model, tmp_path / "alone.onnx")
    spec = range_spec(0.0, 1.0, "bgr")
    export = adopt(
        tmp_path / "alone.onnx",
        folder,
        tmp_path / "export",
        name="alone",
        pixels=spec,
        image_size=32,
    )
    bundle = deploy(export, make_profile(), tmp_path / "bundle")
    manifest = bundle.manifest
    assert manifest.teacher is None
    assert manifest.model.pixels == spec
    assert "teacher" not in read_evidence(bundle).samples_ms
    floats = [one for one in manifest.candidates if one.precision == "fp32"]
    assert all(one.psnr_db > 90 for one in floats)
    assert Bundle.read(bundle.path).manifest == manifest
