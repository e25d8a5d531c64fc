"""A bundle with evidence, sealed by hand in milliseconds, for tests of what is said of it."""

from __future__ import annotations

import numpy as np
import onnx

from deploy.artifacts import Bundle
from deploy.choose import engine_name
from deploy.evidence import Calibration, Evidence, LayerSensitivity
from deploy.golden import GoldenPairs
from deploy.imaging import to_model
from deploy.manifests import (
    EVIDENCE,
    Candidate,
    Latency,
    Manifest,
    ModelSpec,
    Quality,
    QualityFloor,
    Teacher,
)
from deploy.sealing import seal
from devices.machine import Machine
from devices.sealed import MANIFEST
from tests.deploy.conftest import SIZE, photos, run_onnx, student, write_profile

LAYERS = (
    LayerSensitivity(
        layer="conv3", operator="Conv", psnr_db=30, ssim=0.9, lpips=0.05, reverted=True
    ),
    LayerSensitivity(layer="conv1", operator="Conv", psnr_db=40, ssim=0.97, lpips=0.01),
    LayerSensitivity(layer="conv2", operator="Conv", psnr_db=50, ssim=0.99, lpips=0.001),
)
MACHINE = Machine(
    cpu="a <fast> CPU",
    architecture="x86_64",
    cores=2,
    memory_mib=4096,
    governor="performance",
    system="Linux 6",
    runtimes={},
)


def candidate(precision, ms, psnr_db, *, shipped=False, **more):
    return Candidate(
        backend="onnxruntime",
        precision=precision,
        quantizer="nncf" if precision == "int8" else None,
        p50_ms=ms,
        psnr_db=psnr_db,
        ssim=0.99,
        engine_bytes=20_000,
        shipped=shipped,
        reason="fastest of 2 that may ship" if shipped else "slower",
        **more,
    )


def make_bundle(
    out,
    *,
    engine: onnx.ModelProto | None = None,
    golden: GoldenPairs | None = None,
    evidence: bool | str = True,
    lpips: float | None = 0.004,
    name: str = "tiny",
    teacher: bool = True,
    measured: bool = True,
    truth: bool = True,
    profile: dict | None = None,
    engine_file: str = "engine.onnx",
):
    engine = engine or student()
    if golden is None:
        source = photos(3, seed=1)
        made = run_onnx(engine, to_model(source))
        golden = GoldenPairs(source, made, source if truth else None, source if teacher else None)
    candidates = (
        candidate("int8", 2.0, 41.0, shipped=True, lpips=lpips),
        candidate("fp32", 6.0, 100.0, lpips=None if lpips is None else 0.0),
    )
    if not measured:
        candidates = tuple(one.model_copy(update={"p50_ms": None}) for one in candidates)
    names = [engine_name(c.backend, c.precision, c.quantizer, c.variant) for c in candidates]
    rng = np.random.default_rng(0)
    drawn = Evidence(
        samples_ms={
            **{
                n: tuple((ms + rng.random(50)).tolist())
                for n, ms in zip(names, (2, 6), strict=True)
            },
            "teacher": (80.0, 81.0),
        }
        if measured
        else {},
        rounds=10,
        sensitivity=LAYERS,
        calibration=Calibration(images=8, sha256="c" * 64, warnings=("8 images are few",)),
        machine=MACHINE,
    )

    def fill(folder):
        (folder / engine_file).write_bytes(engine.SerializeToString())
        golden.write(folder / "golden.npz")
        if evidence:
            text = drawn.model_dump_json() if evidence is True else evidence
            (folder / EVIDENCE).write_text(text)
        return lambda sha256: Manifest(
            model=ModelSpec(
                name=name,
                task="paired",
                family="resnet",
                image_size=SIZE,
                size_multiple=1,
                params=900_000,
                macs=10**9,
                macs_published=2 * 10**9,
            ),
            teacher=Teacher(
                params=9_000_000,
                macs=10**10,
                macs_published=3 * 10**10,
                torch_eager_p50_ms=80.0 if measured else None,
                psnr_db=30.0,
                ssim=0.9,
            )
            if teacher
            else None,
            student=Quality(psnr_db=29.0, ssim=0.8),
            profile=write_profile(**profile or {}),
            compiled=measured,
            backend="onnxruntime",
            precision="int8",
            engine_file=engine_file,
            candidates=candidates,
            floor=QualityFloor(psnr_db=35.0, truth_drop_db=0.5, lpips=0.005),
            quality=Quality(psnr_db=28.9, ssim=0.79),
            latency=Latency(p50_ms=2.0, p90_ms=2.5, samples=50, first_ms=9, load_ms=90)
            if measured
            else None,
            machine={"fingerprint": "abc123"},
            lineage={"teacher": "sha256:" + "1" * 64},
            versions={"onnxruntime": "1.31.1"},
            sha256=sha256,
        )

    seal(out, MANIFEST, fill)
    return Bundle.read(out)
