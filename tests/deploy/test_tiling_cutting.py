"""An engine cut at its norms, and what its segments make together."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from deploy.tiling.cutting import plan_tiling
from deploy.tiling.moments import Moments
from deploy.tiling.prepare import write_tiling
from deploy.tiling.spec import TILING, Halo, Tiling
from tests.deploy import layers
from tests.deploy.drawing import draw, images, weight


def run_segments(tiling, files, image):
    """All segments over the whole image at once: what the cut alone does."""
    kept, translated = {tiling.image: image}, None
    for segment in tiling.segments:
        session = ort.InferenceSession(
            files[segment.file].SerializeToString(), providers=["CPUExecutionProvider"]
        )
        given = {}
        for source in segment.sources:
            values = kept[source.map]
            if source.epsilon is not None:
                mean = values.mean(axis=(2, 3), keepdims=True)
                variance = values.var(axis=(2, 3), keepdims=True)
                values = (values - mean) / np.sqrt(variance + np.float32(source.epsilon))
            given[source.tensor] = values
        names = [made.name for made in segment.maps]
        for made, values in zip(segment.maps, session.run(names, given), strict=True):
            assert values.shape[1:] == made.shape(*image.shape[2:])
            assert values.dtype == made.kind
            kept[made.name] = translated = values
    return translated


def test_segments_make_what_the_whole_makes(run):
    model = layers.student()
    tiling, files = plan_tiling(model, size_multiple=4)
    assert tiling.halo is None
    assert tiling.obstacles == ()
    assert tiling.norms == tuple(f"InstanceNormalization 'norm{at}'" for at in range(1, 6))
    assert list(files) == [f"segment-{at:02d}.onnx" for at in range(6)]
    for segment in files.values():
        onnx.checker.check_model(segment, full_check=True)
        assert "InstanceNormalization" not in [node.op_type for node in segment.graph.node]
    image = images(48, 64)
    assert np.abs(run_segments(tiling, files, image) - run(model, image)).max() < 2e-6


def test_a_segment_has_the_halo_of_its_own_layers():
    tiling, _ = plan_tiling(layers.student(), size_multiple=4)
    halos = [segment.halo for segment in tiling.segments]
    assert halos[0] == Halo(top=4, bottom=4, left=4, right=4)  # 7 x 7, in units of 2
    assert halos[1] == Halo(top=2, bottom=0, left=2, right=0)  # 3 x 3, stride 2
    assert halos[3] == Halo(top=0, bottom=0, left=0, right=0)  # 1 x 1


def test_a_residual_lives_until_it_is_added():
    tiling, _ = plan_tiling(layers.student(), size_multiple=4)
    (made,) = [at for at, one in enumerate(tiling.segments)
               if "relu2_out" in [made.name for made in one.maps]]  # fmt: skip
    assert tiling.last_reads()["relu2_out"] > made + 1
    assert "relu2_out" not in tiling.measured()


def test_memory_is_that_of_the_worst_moment():
    tiling, _ = plan_tiling(layers.student(), size_multiple=4)
    # the upsampler's 16 channels at full size, made of a sum of two times 16 at a quarter
    assert tiling.map_bytes(100, 200) == 100 * 200 * 4 * (16 + 4 + 4)


def test_a_norm_without_scale_and_shift_leaves_no_trace():
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    body = "a = Conv(image, w) b = InstanceNormalization(a, s, t) out = Relu(b)"
    plain = draw(body, {"w": weight(4, 3, 1, 1), "s": one, "t": zero})
    scaled = draw(body, {"w": weight(4, 3, 1, 1), "s": 2 * one, "t": one})
    kinds = []
    for model in (plain, scaled):
        _, files = plan_tiling(model, size_multiple=4)
        kinds.append([node.op_type for node in files["segment-01.onnx"].graph.node])
    assert kinds == [["Relu"], ["Mul", "Add", "Relu"]]


def test_what_is_quantized_is_kept_quantized(run):
    """A residual crosses in 8 bits; its DequantizeLinear is in both segments."""
    stored = {
        "w": weight(4, 3, 3, 3), "v": weight(4, 4, 1, 1), "u": weight(3, 4, 1, 1),
        "one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32),
        "s": np.array(0.05, np.float32), "z": np.array(128, np.uint8),
    }  # fmt: skip
    model = draw(
        "a = Conv<pads = [1, 1, 1, 1]>(image, w) n = InstanceNormalization(a, one, zero) "
        "q = QuantizeLinear(n, s, z) d = DequantizeLinear(q, s, z) "
        "b = Conv(d, v) m = InstanceNormalization(b, one, zero) "
        "c = Add(d, m) out = Conv(c, u)",
        stored,
    )
    tiling, files = plan_tiling(model, size_multiple=4)
    kinds = {made.name: made.kind for segment in tiling.segments for made in segment.maps}
    assert kinds == {"a": "float32", "q": "uint8", "b": "float32", "out": "float32"}
    assert tiling.map_bytes(10, 10) == 100 * (16 + 4 + 16)
    image = images(32, 40)
    assert np.abs(run_segments(tiling, files, image) - run(model, image)).max() < 2e-6


def test_a_norm_whose_scale_is_computed_is_an_obstacle():
    model = draw(
        "a = Conv(image, w) k = Abs(t) b = InstanceNormalization(a, k, t) out = Relu(b)",
        {"w": weight(4, 3, 1, 1), "t": np.ones(4, np.float32)},
    )
    tiling, files = plan_tiling(model, size_multiple=4)
    assert files == {}
    (obstacle,) = tiling.obstacles
    assert obstacle.endswith("_b' computes its scale or shift")


def test_the_files_of_a_bundle(tmp_path):
    tiling = write_tiling(layers.student(), tmp_path, size_multiple=4)
    assert Tiling.model_validate_json((tmp_path / TILING).read_text()) == tiling
    assert {path.name for path in tmp_path.iterdir()} == {
        TILING, *(segment.file for segment in tiling.segments)
    }  # fmt: skip
    again = tmp_path / "again"
    again.mkdir()
    write_tiling(layers.student(), again, size_multiple=4)
    for path in again.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_moments_of_tiles_are_those_of_the_whole(offset):
    values = images(70, 90, channels=5)[0] + np.float32(offset)
    found = Moments(5)
    for rows in (slice(0, 10), slice(10, 64), slice(64, 70)):
        for columns in (slice(0, 33), slice(33, 90)):
            found.add(values[:, rows, columns])
    exact = values.astype(np.float64)
    assert np.allclose(found.mean(), exact.mean(axis=(1, 2)), rtol=1e-7, atol=1e-7)
    wanted = 1 / np.sqrt(exact.var(axis=(1, 2)) + 1e-5)
    assert np.allclose(found.factor(1e-5), wanted, rtol=1e-6)
