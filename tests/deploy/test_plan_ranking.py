"""A plan's order of the layers beside the measured one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deploy.evidence import LayerSensitivity
from deploy.pipeline import deploy
from deploy.plan_ranking import rank_layers, ranks, show_ranking
from deploy.precision_plan import PLAN, LayerPrecision, PrecisionPlan
from deploy.sealing import seal

IQ = (106, 100, 86, 101, 99, 103, 97, 113, 112, 110)
HOURS = (7, 27, 2, 50, 28, 29, 20, 12, 6, 17)
"""The worked example of many textbooks: rho is -29/165, and its p-value 0.627."""


def plan(scores):
    return PrecisionPlan(
        layers=tuple(
            LayerPrecision(layer=name, precision="int8", score=score)
            for name, score in scores.items()
        ),
        mean_bits=8.0,
    )


def measured(psnr_db):
    return tuple(
        LayerSensitivity(layer=name, operator="Conv", psnr_db=psnr, ssim=1.0, lpips=None)
        for name, psnr in psnr_db.items()
    )


def rank(scores, psnr_db):
    names = [f"conv{at}" for at in range(len(scores))]
    return rank_layers(
        plan(dict(zip(names, scores, strict=True))),
        measured(dict(zip(names, psnr_db, strict=True))),
    )


def test_ranks_of_equals_are_shared():
    assert ranks([1.0, 2.0, 2.0, 3.0]).tolist() == [1.0, 2.5, 2.5, 4.0]
    assert ranks([9.0, 7.0, 9.0, 9.0]).tolist() == [3.0, 1.0, 3.0, 3.0]


def test_what_scores_high_should_measure_low():
    agreeing = rank([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], [20.0, 30.0, 31.0, 50.0, 60.0, 61.0])
    assert agreeing.rho == pytest.approx(1.0)
    assert agreeing.chance < 0.01
    assert [row.layer for row in agreeing.layers] == [f"conv{at}" for at in range(6)]
    assert [row.by_score for row in agreeing.layers] == [1, 2, 3, 4, 5, 6]
    assert rank([1.0, 2.0, 3.0, 4.0], [20.0, 30.0, 31.0, 50.0]).rho == pytest.approx(-1.0)


def test_the_textbook_example():
    found = rank(tuple(map(float, IQ)), tuple(-float(hours) for hours in HOURS))
    assert found.rho == pytest.approx(-29 / 165)
    assert found.chance == pytest.approx(0.627, abs=0.02)


def test_layers_that_nobody_measured_are_named_and_left_out():
    scores = {"conv0": 9.0, "conv1": 3.0, "conv2": 2.0, "conv3": 1.0}
    found = rank_layers(plan(scores), measured({"conv1": 20.0, "conv2": 30.0, "conv3": 40.0}))
    assert found.unmeasured == ("conv0",)
    assert found.rho == pytest.approx(1.0)
    assert [row.by_score for row in found.layers] == [1, 2, 3]


def test_too_few_layers_or_no_order():
    with pytest.raises(ValueError, match=r"have 2 layers in common, .* \(mean_bits = 8\)"):
        rank([1.0, 2.0], [30.0, 20.0])
    with pytest.raises(ValueError, match="all 3 scores are the same"):
        rank([1.0, 1.0, 1.0], [30.0, 20.0, 10.0])
    with pytest.raises(ValueError, match="all 3 measured errors are the same"):
        rank([1.0, 2.0, 3.0], [30.0, 30.0, 30.0])


@pytest.fixture
def planned(sealed_export, tmp_path):
    """The export with a plan that leaves everything in INT8."""
    face, text = sealed_export.manifest, plan({"conv3": 3.0, "conv1": 2.0, "conv2": 1.0})

    def fill(folder):
        for name in face.sha256:
            (folder / name).write_bytes((sealed_export.path / name).read_bytes())
        (folder / PLAN).write_text(text.model_dump_json())
        return lambda sha256: face.model_copy(update={"sha256": sha256})

    seal(tmp_path / "export", "export.json", fill)
    return type(sealed_export).read(tmp_path / "export")


@pytest.mark.slow
def test_a_bundle_beside_its_plan(planned, make_profile, tmp_path):
    profile = make_profile(board="a board that this machine is not", backends=("openvino",))
    bundle = deploy(planned, profile, tmp_path / "bundle")
    console = Console(file=io.StringIO(), width=100)
    assert show_ranking(console, bundle.path, planned.path) == 0
    said = console.file.getvalue()
    for part in ("conv1", "conv2", "conv3", "int8", "dB", "(Spearman)", "over 3 layers"):
        assert part in said


def test_a_bundle_of_another_student(planned, sealed_bundle):
    with pytest.raises(ValueError, match="was not made from the student in"):
        show_ranking(Console(file=io.StringIO()), sealed_bundle.path, planned.path)


def test_an_export_without_a_plan(sealed_export, sealed_bundle):
    with pytest.raises(ValueError, match=r"holds no precision_plan\.json: compress with a recipe"):
        show_ranking(Console(file=io.StringIO()), sealed_bundle.path, sealed_export.path)
