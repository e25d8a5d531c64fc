"""The claimed receptive field, held against what a perturbed pixel really changes."""

import numpy as np
import onnx
import pytest

from deploy.passes.draft import draft
from deploy.tiling.cutting import plan_tiling
from deploy.tiling.spec import Halo
from deploy.tiling.survey import halo, survey
from tests.deploy import layers
from tests.deploy.drawing import draw, images, weight, whole


def claim(model):
    """Alignment and halo of a graph without norms."""
    work = draft(model)
    found = survey(work)
    assert found.obstacles == ()
    nodes = list(work.model.graph.node)
    return found.alignment, halo(found, nodes, ["out"], ["image"])


def touched(model, run, at, size):
    """Rows and columns of the output that a change of one pixel changes, first and last."""
    image = images(*size)
    other = image.copy()
    other[:, :, at[0], at[1]] += 1.0
    changed = (run(model, image) != run(model, other)).any(axis=(0, 1))
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    return (rows[0], rows[-1]), (columns[0], columns[-1]), changed.shape


CONV = "out = Conv<{}>(image, w)"
GRAPHS = {
    "a kernel": (CONV.format("pads = [1, 1, 1, 1]"), (4, 3, 3, 3), {}),
    "a wide kernel": (CONV.format("pads = [3, 1, 3, 1]"), (4, 3, 7, 3), {}),
    "a dilated kernel": (CONV.format("dilations = [3, 2], pads = [3, 2, 3, 2]"), (4, 3, 3, 3), {}),
    "padded on one side": (CONV.format("pads = [2, 0, 0, 2]"), (4, 3, 3, 3), {}),
    "stride 2": (CONV.format("strides = [2, 2], pads = [1, 1, 1, 1]"), (4, 3, 3, 3), {}),
    "same, stride 2": (CONV.format('strides = [2, 2], auto_pad = "SAME_UPPER"'), (4, 3, 3, 3), {}),
    "same, lower": (CONV.format('auto_pad = "SAME_LOWER"'), (4, 3, 4, 4), {}),
    "reflection": ('a = Pad<mode = "reflect">(image, b) out = Conv(a, w)', (4, 3, 5, 5), {
        "b": whole(0, 0, 2, 2, 0, 0, 2, 2)}),
    "transposed": (
        "a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w) out = ConvTranspose<"
        "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>(a, v)",
        (6, 3, 3, 3), {"v": weight(6, 4, 3, 3)}),
    "transposed, kernel 4": (
        "a = Conv<strides = [4, 4]>(image, w) out = ConvTranspose<"
        "strides = [4, 4], pads = [1, 1, 1, 1]>(a, v)",
        (6, 3, 4, 4), {"v": weight(6, 4, 6, 6)}),
    "pooling": ("a = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(image) "
                "b = Conv<pads = [0, 0, 1, 1]>(a, w) out = AveragePool<kernel_shape = [2, 2]>(b)",
                (4, 3, 1, 1), {}),
    "to depth and back": (
        "a = SpaceToDepth<blocksize = 2>(image) b = Conv<pads = [1, 1, 1, 1]>(a, w) "
        "out = DepthToSpace<blocksize = 2>(b)", (12, 12, 3, 3), {}),
    "nearest": ('a = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", '
                'nearest_mode = "floor">(image, , s) out = Conv<pads = [1, 1, 1, 1]>(a, w)',
                (4, 3, 3, 3), {"s": np.array([1, 1, 2, 2], np.float32)}),
    "linear": ('a = Resize<mode = "linear">(image, , s) out = Conv(a, w)',
               (4, 3, 1, 1), {"s": np.array([1, 1, 2, 2], np.float32)}),
    "linear, down": ('a = Resize<mode = "linear">(image, , s) out = Conv(a, w)',
                     (4, 3, 1, 1), {"s": np.array([1, 1, 0.5, 0.5], np.float32)}),
    "cubic": ('a = Resize<mode = "cubic">(image, , s) out = Conv(a, w)',
              (4, 3, 1, 1), {"s": np.array([1, 1, 2, 4], np.float32)}),
    "a skip": ("a = Conv<pads = [1, 1, 1, 1]>(image, w) b = Conv<pads = [2, 2, 2, 2]>(a, v) "
               "c = Slice(b, zero, one, one) out = Concat<axis = 1>(a, c)",
               (4, 3, 3, 3), {"v": weight(2, 4, 5, 5), "zero": whole(0), "one": whole(1)}),
    "cropped": ("a = Conv<pads = [3, 3, 3, 3]>(image, w) out = Slice(a, from, until, axes)",
                (4, 3, 3, 3), {"from": whole(2, 1), "until": whole(-2, -3), "axes": whole(2, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_outside_the_claimed_field_changes(name, run):
    """And where a halo is claimed, its outermost alignment is really needed."""
    body, shape, stored = GRAPHS[name]
    model = draw(body, {"w": weight(*shape)} | stored)
    (unit_rows, unit_columns), around = claim(model)
    size = (48, 64)
    worst = {"top": 0, "bottom": 0, "left": 0, "right": 0}
    for step in range(4):
        at = (20 + step, 28 + step)
        (first, last), (left, right), shape = touched(model, run, at, size)
        # an output row lies in the tile of unit rows that it is made for
        rate_y, rate_x = shape[0] / size[0], shape[1] / size[1]
        for side, far, unit in (
            ("bottom", at[0] // unit_rows - int(first / rate_y) // unit_rows, unit_rows),
            ("top", int(last / rate_y) // unit_rows - at[0] // unit_rows, unit_rows),
            ("right", at[1] // unit_columns - int(left / rate_x) // unit_columns, unit_columns),
            ("left", int(right / rate_x) // unit_columns - at[1] // unit_columns, unit_columns),
        ):
            assert far * unit <= getattr(around, side)
            worst[side] = max(worst[side], far * unit)
    assert around == Halo(**worst)


def test_the_field_of_a_generator(run):
    model = layers.student(norm=False)
    tiling, files = plan_tiling(model, size_multiple=4)
    # 3 + 1 at full size, 2 of 2 in the block, 2 for the upsampler, 3 at the end: 11, aligned to 2
    assert tiling.alignment == (2, 2)
    assert tiling.halo is not None
    assert files == {}
    image = images(64, 64)
    other = image.copy()
    other[:, :, 31, 33] += 1.0
    changed = np.argwhere((run(model, image) != run(model, other)).any(axis=(0, 1)))
    low, high = changed.min(axis=0), changed.max(axis=0)
    assert (31 - low <= tiling.halo.bottom + 1).all()
    assert (high - 31 <= tiling.halo.top + 3).all()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("a = GlobalAveragePool(image) out = Mul(image, a)", "GlobalAveragePool"),
        ("a = ReduceMean(image, both) out = Sub(image, a)", "looks at the whole image"),
        ("a = Softmax<axis = 3>(image) out = Relu(a)", "Softmax"),
        ("a = Shape(image) out = Expand(image, a)", "computes with the size of the image"),
        ("a = Transpose<perm = [0, 1, 3, 2]>(image) out = Relu(a)", "receptive field is known"),
        ("a = Add(image, map) out = Relu(a)", "adds a stored map of one size"),
        ('a = Pad<mode = "wrap">(image, b) out = Relu(a)', "mode wrap"),
        ('a = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">'
         "(image, , s) out = Relu(a)", "align_corners"),
        ('a = Resize<mode = "nearest">(image, , t) out = Relu(a)', "no whole factor"),
        ("a = MaxPool<kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1, "
         "pads = [0, 0, 1, 1]>(image) out = Relu(a)", "ceil_mode"),
        ("a = Slice(image, from, until, axes) out = Relu(a)", "depend on the image's size"),
        ("a = Conv(image, w) out = Relu(a)", "another size than a multiple of the image's"),
        ("a = SpaceToDepth<blocksize = 8>(image) out = DepthToSpace<blocksize = 8>(a)",
         "padded to multiples of 4"),
        ("a = Concat<axis = 2>(image, image) out = Relu(a)", "along channels"),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_named(body, said):
    model = draw(body, {
        "both": whole(2, 3), "map": weight(3, 8, 8), "b": whole(0, 0, 1, 1, 0, 0, 1, 1),
        "s": np.array([1, 1, 2, 2], np.float32), "t": np.array([1, 1, 1.5, 1.5], np.float32),
        "from": whole(1), "until": whole(9), "axes": whole(2), "w": weight(3, 3, 3, 3),
    })  # fmt: skip
    tiling, files = plan_tiling(model, size_multiple=4)
    assert tiling.halo is None
    assert tiling.segments == ()
    assert files == {}
    assert any(said in obstacle for obstacle in tiling.obstacles), tiling.obstacles


def test_every_obstacle_is_named():
    model = draw("a = GlobalMaxPool(image) b = Mul(image, a) c = GlobalAveragePool(b) "
                 "out = Mul(b, c)")  # fmt: skip
    tiling, _ = plan_tiling(model, size_multiple=4)
    assert [text.split()[0] for text in tiling.obstacles] == [
        "GlobalMaxPool", "GlobalAveragePool"
    ]  # fmt: skip


def test_the_model_is_left_as_it_is():
    model = layers.student()
    before = model.SerializeToString()
    plan_tiling(model, size_multiple=4)
    assert model.SerializeToString() == before
    onnx.checker.check_model(model)
