from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.quantize import check_calibration, quantize

ROOT = Path(__file__).parents[2]


def test_the_same_inputs_give_the_same_bytes_in_silence(make_student, make_photos, capfd):
    model, images = make_student(), make_photos(8)
    before = model.SerializeToString()
    environment = dict(os.environ)
    first, second = (quantize(model, images, enough_db=0.0) for _ in range(2))
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(
        deterministic=True
    )
    assert first.psnr_db > 30
    assert first.quantizer in ("nncf performance, mean", "nncf mixed, extremes")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert model.SerializeToString() == before
    assert dict(os.environ) == environment


def test_the_ranges_that_hurt_less_are_kept(make_student, make_photos):
    """One image far brighter than the others: averaged extremes would clip it."""
    dark = make_photos(8) // 8 + 100
    dark[3] = make_photos(1, seed=5)[0]
    assert quantize(make_student(), dark, enough_db=0.0).quantizer == "nncf mixed, extremes"


def deep_student():
    """Six 1x1 convolutions: enough for an inside between the ends."""
    rng = np.random.default_rng(0)
    widths = (3, 8, 8, 8, 8, 8, 3)
    nodes, stored, name = [], [], "image"
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        out = "translation" if index == 5 else f"y{index}"
        weight = rng.normal(size=(after, before, 1, 1)) / np.sqrt(before)
        stored.append(numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
        nodes.append(helper.make_node("Conv", [name, f"w{index}"], [out], f"conv{index}"))
        name = out
    shape = [1, 3, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("translation", TensorProto.FLOAT, shape)],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_the_ends_stay_in_float_where_the_whole_is_not_enough(make_photos):
    model, images = deep_student(), make_photos(8)
    whole = quantize(model, images, enough_db=0.0)
    ends = quantize(model, images, enough_db=1000.0)
    assert "ends" not in whole.quantizer
    assert ends.quantizer.endswith(", 2 layers at each end in float")
    assert ends.psnr_db > whole.psnr_db
    assert weights_in_int8(whole.model) == {f"w{index}" for index in range(6)}
    assert weights_in_int8(ends.model) == {"w2", "w3"}


def weights_in_int8(model):
    """Which of w0 to w5 come out of a DequantizeLinear."""
    integers = "".join(n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear")
    return {name for name in (f"w{index}" for index in range(6)) if name in integers}


def flat(images):
    images[4] = 200
    return images


def twice(images):
    images[6] = images[1]
    return images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flat, r"calibration image 4 is flat \(levels 200 to 200\)"),
        (twice, "calibration images 1 and 6 are the same; choose other"),
        (lambda images: images[:7], "calibration has 7 images; it takes 8"),
        (lambda images: images // 4, r"calibration covers levels 0 to 6\d of 0 to 255, fewer"),
        (lambda images: images / np.float32(255), r"calibration is float32 \(8, 32, 32, 3\)"),
        (lambda images: images[..., 0], r"calibration is uint8 \(8, 32, 32\), not uint8"),
    ],
)
def test_a_calibration_set_that_would_do_harm(change, message, make_photos):
    with pytest.raises(ValueError, match=message):
        check_calibration(change(make_photos(8)))


def test_a_good_calibration_set(make_photos):
    check_calibration(make_photos(8))


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
from deploy.quantize import quantize
model = onnx.load(sys.argv[1])
quantized = quantize(model, np.load(sys.argv[2])["source"], enough_db=0.0)
import nncf
assert "torch" not in sys.modules
assert type(nncf.telemetry.telemetry).__name__ == "MagicMock", "NNCF would call home"
print(sum(node.op_type == "QuantizeLinear" for node in quantized.model.graph.node))
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
    assert int(ran.stdout) > 3
    assert not (tmp_path / "intel").exists(), "telemetry keeps its identity there"
