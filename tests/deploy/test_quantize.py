from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from deploy.quantize import named, quantize_candidates
from deploy.quantizers.nncf import by_nncf
from deploy.quantizers.ort import by_onnxruntime
from deploy.reverting import quantized_layers
from deploy.rewiring import arrays
from tests.deploy.layers import LAYERS, student

pytestmark = pytest.mark.slow  # NNCF takes its time

ROOT = Path(__file__).parents[2]
QUANTIZERS = {
    "nncf": lambda model, images, **more: by_nncf(model, images, extremes=True, **more),
    "ort minmax": lambda model, images, **more: by_onnxruntime(
        model, images, method="minmax", **more
    ),
    "ort percentile": lambda model, images, **more: by_onnxruntime(
        model, images, method="percentile", **more
    ),
}
each = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)


@pytest.fixture(scope="module")
def images(make_photos):
    return make_photos(4, size=64)


@pytest.fixture(scope="module")
def candidates(images):
    return quantize_candidates(student(), images, ("openvino", "onnxruntime"))


@each
def test_the_same_inputs_give_the_same_bytes_in_silence(
    quantizer, images, capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model = student()
    before, environment = model.SerializeToString(), dict(os.environ)
    first, second = (quantizer(model, images) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    onnx.checker.check_model(first, full_check=True)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert model.SerializeToString() == before
    assert dict(os.environ) == environment


@each
def test_kept_layers_stay_in_float(quantizer, images):
    quantized = quantizer(student(), images, keep=["stem", "pointwise"])
    in_int8 = quantized_layers(quantized)
    assert {"down", "depthwise", "last"} <= set(in_int8)
    assert not {"stem", "pointwise"}.intersection(in_int8)
    np.testing.assert_array_equal(arrays(quantized)["stem_w"], arrays(student())["stem_w"])


def test_every_way_that_pays_best_first(candidates):
    own = next(one.quantizer for one in candidates if one.quantizer.startswith("onnxruntime"))
    assert {one.quantizer: one.backends for one in candidates} == {
        "nncf performance, mean": ("openvino", "onnxruntime"),
        "nncf mixed, extremes": ("openvino", "onnxruntime"),
        "nncf performance, mean, islands closed": ("onnxruntime",),
        "nncf mixed, extremes, islands closed": ("onnxruntime",),
        own: ("onnxruntime",),
    }
    assert {one.family for one in candidates} == {"nncf", "nncf, islands closed", "onnxruntime"}
    scores = [one.psnr_db for one in candidates]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 25
    assert len(set(scores)) == 5, "each is a graph of its own"
    for one in candidates:
        assert set(quantized_layers(one.model)) >= set(LAYERS) - {"up"}


def test_a_backend_gets_what_it_fuses_only(images):
    made = quantize_candidates(student(), images, ("tensorrt",))
    names = sorted(one.quantizer for one in made)
    assert names == [
        "nncf mixed, extremes",
        "nncf mixed, extremes, sums too",
        "nncf performance, mean",
        "nncf performance, mean, sums too",
    ]
    for one in made:
        makers = {name: node for node in one.model.graph.node for name in node.output}
        total = next(node for node in one.model.graph.node if node.name == "sum")
        reads = {makers[name].op_type for name in total.input}
        rounded = one.quantizer.endswith("sums too")
        assert reads == ({"DequantizeLinear"} if rounded else {"Relu", "InstanceNormalization"})
    assert {one.backends for one in made} == {("tensorrt",)}


def test_the_ranges_that_hurt_less_come_first(make_photos):
    """One image far brighter than the others: averaged extremes would clip it."""
    dark = make_photos(8, size=64) // 8 + 100
    dark[3] = make_photos(1, seed=5, size=64)[0]
    assert quantize_candidates(student(), dark, ("openvino",))[0].quantizer.endswith("extremes")


def test_less_in_int8_is_closer_to_float(images, candidates):
    kept = ["stem", "down", "up", "last"]
    best = quantize_candidates(student(), images, ("openvino",), keep=kept)[0]
    assert best.kept == tuple(kept)
    assert quantized_layers(best.model) == ["depthwise", "pointwise"]
    assert best.psnr_db > candidates[0].psnr_db
    assert quantize_candidates(student(), images, ("openvino",), keep=LAYERS) == ()


def test_a_layer_to_keep_that_is_not_there(images):
    with pytest.raises(ValueError, match="no layer 'stam' to keep; did you mean 'stem'"):
        quantize_candidates(student(), images, ("openvino",), keep=["stam"])


def test_every_node_gets_a_name_of_its_own(images):
    model = student()
    assert named(model) is model
    for node in model.graph.node:
        node.name = "conv" if node.op_type == "Conv" else ""
    before = model.SerializeToString()
    once = named(model)
    names = [node.name for node in once.graph.node]
    assert model.SerializeToString() == before
    assert len(set(names)) == len(names) == len(model.graph.node)
    assert all(names)
    assert [n for n in names if n.startswith("conv")] == [
        "conv",
        *(f"conv_{count}" for count in range(2, 6)),
    ]
    assert len(quantized_layers(by_onnxruntime(once, images, method="minmax"))) == 5


WITHOUT_TORCH = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("torch", "torch_pruning", "torchmetrics"):
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import numpy as np, onnx
import deploy.pipeline
assert "nncf" not in sys.modules, "NNCF is imported only to quantize"
from deploy.quantize import quantize_candidates
model = onnx.load(sys.argv[1])
found = quantize_candidates(model, np.load(sys.argv[2])["source"], ("openvino", "onnxruntime"))
import nncf
assert "torch" not in sys.modules
assert type(nncf.telemetry.telemetry).__name__ == "MagicMock", "NNCF would call home"
print(sum(node.op_type == "QuantizeLinear" for node in found[0].model.graph.node))
"""


def test_it_runs_where_there_is_no_torch_and_calls_nobody(sealed_export, tmp_path):
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_TORCH,
            str(sealed_export.model),
            str(sealed_export.path / "calibration.npz"),
        ],
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == 3
    assert not (tmp_path / "intel").exists(), "telemetry keeps its identity there"
