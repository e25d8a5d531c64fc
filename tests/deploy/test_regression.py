import numpy as np
import onnx
import pytest

from deploy import regression
from deploy.gate_sides import of_paths
from deploy.imaging import to_model
from deploy.regression import LPIPS_GROWTH, compare_images
from deploy.verify import PSNR_CEILING_DB
from tests.deploy.conftest import photos, run_onnx, student
from tests.deploy.near_truth import near_truth, spoilt


@pytest.fixture
def make(tmp_path):
    return lambda name, **options: near_truth(tmp_path / name, **options)


def test_the_same_engine_is_not_run(make, monkeypatch):
    def never(*_):
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(regression, "loader", never)
    assert compare_images(make("a"), make("b")) is None


def test_images_that_are_alike_are_not_worse(make):
    images = compare_images(make("a"), make("b", spoil=1e-4))
    assert images.against == "truth"
    assert images.images == 3
    assert images.baseline_psnr_db == pytest.approx(images.candidate_psnr_db, abs=0.05)
    assert images.worse == ""


def test_images_further_from_the_truth_are_worse(make):
    images = compare_images(make("a"), make("b", spoil=0.05))
    assert images.candidate_psnr_db < images.baseline_psnr_db - 0.3
    drop = images.baseline_psnr_db - images.candidate_psnr_db
    assert images.worse.startswith(f"images lose {drop:.2f} dB of PSNR to the truth (")
    assert images.worse.endswith("), allowed are 0.3")


def test_images_nearer_to_the_truth_are_not_worse(make):
    images = compare_images(make("a", spoil=0.05), make("b"))
    assert images.candidate_psnr_db > images.baseline_psnr_db
    assert images.worse == ""


def test_without_a_truth_the_teacher_is_the_reference(make):
    images = compare_images(make("a", truth=False), make("b", truth=False, spoil=0.05))
    assert images.against == "teacher"
    assert "to the teacher" in images.worse


def test_without_both_it_is_the_float_student(make):
    bare = {"truth": False, "teacher": False}
    exact, good, bad = (
        make(name, **bare, spoil=spoil) for name, spoil in (("a", 0), ("b", 0.002), ("c", 0.1))
    )
    images = compare_images(exact, good)
    assert images.against == "float student"
    # a float engine has more than any INT8 engine will, and need not keep it
    assert images.baseline_psnr_db > 55 > images.candidate_psnr_db
    assert images.worse == ""
    assert "to the float student" in compare_images(good, bad).worse


def test_another_student_is_held_to_its_own_float_student(make):
    bare = {"truth": False, "teacher": False}
    other = student(seed=3)
    source = photos(2, seed=7)
    own = {"source": source, "student": run_onnx(other, to_model(source))}
    images = compare_images(make("a", **bare), make("b", **bare, engine=other, **own))
    assert images.against == "float student of each"
    assert images.candidate_psnr_db > 50
    assert images.worse == ""


def test_another_student_beside_the_same_truth_is_judged_by_it(make):
    images = compare_images(make("a"), make("b", engine=student(seed=3)))
    assert images.against == "truth"
    assert images.worse


def test_lpips_that_grows_is_worse(make, monkeypatch):
    class Fake:
        calls = 0

        def __call__(self, images, references):
            assert images.shape == references.shape == (3, 3, 32, 32)
            assert images.min() >= -1
            assert images.max() <= 1
            self.calls += 1
            return np.full(len(images), 0.1 * self.calls, dtype=np.float32)

    monkeypatch.setattr(regression, "_lpips", lambda threads: Fake())
    images = compare_images(make("a"), make("b", spoil=1e-4))
    assert images.baseline_lpips == pytest.approx(0.1)
    assert images.candidate_lpips == pytest.approx(0.2)
    expected = "LPIPS of images to the truth grows by 0.1000 (0.1000 to 0.2000)"
    assert images.worse == f"{expected}, allowed are {LPIPS_GROWTH:g}"


def test_lpips_that_cannot_take_images_this_small_is_left_out(make, monkeypatch):
    def small(images, references):
        raise ValueError("LPIPS takes images of at least 64 x 64 pixels")

    monkeypatch.setattr(regression, "_lpips", lambda threads: small)
    images = compare_images(make("a"), make("b", spoil=1e-4))
    assert images.baseline_lpips is images.candidate_lpips is None
    assert images.worse == ""


def test_where_lpips_cannot_run_it_is_not_asked(monkeypatch):
    monkeypatch.setattr(regression, "NEEDED_FOR_LPIPS", ("no_such_package",))
    assert regression._lpips(1) is None


def test_values_that_are_not_finite_are_worse(make):
    broken = spoilt(student(), float("nan"))
    images = compare_images(make("a"), make("b", engine=broken))
    assert images.candidate_psnr_db is None
    assert images.worse == "golden image 0 comes out with values that are not finite"
    with pytest.raises(ValueError, match=r"c cannot be a baseline: golden image 0 .* not finite"):
        compare_images(make("c", engine=broken), make("d"))


def test_another_shape_is_worse(make):
    halved = student()
    (conv,) = [node for node in halved.graph.node if node.name == "conv3"]
    conv.attribute.append(onnx.helper.make_attribute("strides", [2, 2]))
    images = compare_images(make("a"), make("b", engine=halved))
    assert images.worse == "golden image 0 comes out as (1, 3, 16, 16), not (1, 3, 32, 32)"


@pytest.fixture
def bare(tmp_path, profile_here):
    """Sealed folders of two bare engines."""

    def made(first, second):
        for name, model in (("one.onnx", first), ("two.onnx", second)):
            (tmp_path / name).write_bytes(model.SerializeToString())
        working = tmp_path / "working"
        working.mkdir()
        engines = tmp_path / "one.onnx", tmp_path / "two.onnx"
        (pair,) = of_paths(*engines, never, working=working, device=profile_here).pairs
        return pair.baseline, pair.candidate

    return made


@pytest.fixture
def profile_here(make_profile):
    return make_profile(backends=("onnxruntime",))


def never(bundle):
    raise AssertionError(f"{bundle} was measured")


def test_bare_engines_are_compared_with_each_other(bare):
    images = compare_images(*bare(student(), spoilt(student(), 0.001)))
    assert images.against == "baseline's images"
    assert images.baseline_psnr_db == PSNR_CEILING_DB
    assert images.candidate_psnr_db > 40
    assert images.worse == ""


def test_bare_engines_that_make_other_images_are_worse(bare):
    images = compare_images(*bare(student(), student(seed=5)))
    assert images.worse.startswith(f"images are {images.candidate_psnr_db:.1f} dB from the basel")
    assert "compare bundles" in images.worse


def test_the_same_bare_engine_is_not_run(bare):
    assert compare_images(*bare(student(), student())) is None


def test_a_bare_engine_that_makes_no_images_is_worse(bare):
    images = compare_images(*bare(student(), spoilt(student(), float("nan"))))
    assert images.candidate_psnr_db is None
    assert images.worse == "made-up image 0 comes out with values that are not finite"
