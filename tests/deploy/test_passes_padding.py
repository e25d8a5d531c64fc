import numpy as np
import pytest

from deploy.passes.padding import merge_pads, slice_edge, slice_pads, slice_reflect, without_pads
from tests.deploy.drawing import check, draw, images, operators, weight, whole

BORDER = whole(0, 0, 1, 2, 0, 0, 3, 0)


def layer(operator, *, border=BORDER, mode="constant", value=None, opset=18, more=""):
    """Pad, then a layer with padding, strides and more of its own."""
    shape = (3, 4, 4, 4) if "Transpose" in operator else (4, 3, 4, 4)
    stored = {"border": border, "w": weight(*shape), "b": weight(4)}
    inputs = "padded" if "Pool" in operator else "padded, w, b"
    given = "image, border"
    if value is not None:
        stored["value"] = np.float32(value)
        given = "image, border, value"
    return draw(
        f'padded = Pad<mode="{mode}">({given}) out = {operator}({inputs}) {more}',
        stored,
        opset=opset,
    )


@pytest.mark.parametrize(
    "operator",
    [
        "Conv",
        "Conv<pads = [1, 0, 2, 1], strides = [2, 3]>",
        'Conv<auto_pad = "VALID", dilations = [2, 1]>',
        "ConvTranspose<pads = [2, 4, 6, 0], strides = [2, 2]>",
        "ConvTranspose<pads = [4, 6, 9, 1], strides = [3, 3], output_padding = [2, 1]>",
        "AveragePool<kernel_shape = [4, 4]>",
        "AveragePool<kernel_shape = [5, 5], pads = [1, 1, 1, 1], count_include_pad = 1>",
    ],
)
@pytest.mark.parametrize("opset", [18, 13])
def test_a_border_of_zeros_becomes_the_layers_own(operator, opset, run):
    model = layer(operator, opset=opset)
    before = model.SerializeToString()
    merged = merge_pads(model)
    check(merged)
    assert model.SerializeToString() == before
    assert operators(merged) == [operator.partition("<")[0]]
    for size in ((16, 16), (11, 14)):
        np.testing.assert_allclose(
            run(merged, images(*size)), run(model, images(*size)), atol=2e-6, rtol=0
        )


def test_a_stored_value_of_zero_is_zero(run):
    model = layer("Conv", value=0.0)
    assert operators(merge_pads(model)) == ["Conv"]


def test_every_layer_that_reads_the_border_gets_it(run):
    model = draw(
        "padded = Pad(image, border) a = Conv(padded, w) b = Conv<dilations = [1, 1]>(padded, v) "
        "out = Add(a, b)",
        {"border": whole(0, 0, 1, 1, 0, 0, 1, 1), "w": weight(4, 3, 3, 3), "v": weight(4, 3, 3, 3)},
    )
    merged = merge_pads(model)
    assert operators(merged) == ["Conv", "Conv", "Add"]
    np.testing.assert_allclose(run(merged, images(9, 7)), run(model, images(9, 7)), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        layer("Conv", value=0.5),
        layer("Conv", mode="reflect"),
        layer("Conv", border=whole(0, 0, -1, 0, 0, 0, 0, 0)),
        layer('Conv<auto_pad = "SAME_UPPER">'),
        layer("ConvTranspose<pads = [1, 1, 1, 1], strides = [2, 2]>"),
        layer("ConvTranspose<strides = [2, 2], output_shape = [20, 20]>"),
        layer("AveragePool<kernel_shape = [5, 5], pads = [1, 1, 1, 1]>"),
        layer("AveragePool<kernel_shape = [4, 4], strides = [3, 3], ceil_mode = 1>"),
        layer("AveragePool<kernel_shape = [3, 3]>"),
        layer("MaxPool<kernel_shape = [4, 4]>"),
    ],
    ids=[
        *("another value", "reflect", "a crop", "SAME pads", "a crop that is too small"),
        *("a computed crop", "a mean without zeros", "a window over the end"),
        *("a window of padding", "a maximum"),
    ],
)
def test_a_border_that_is_not_the_layers_own_stays(model):
    assert operators(merge_pads(model)) == operators(model)


def test_a_border_of_channels_stays():
    model = draw(
        "padded = Pad(image, border) out = Conv(padded, w)",
        {"border": whole(0, 1, 1, 1, 0, 0, 1, 1), "w": weight(4, 4, 3, 3)},
    )
    assert operators(merge_pads(model)) == ["Pad", "Conv"]


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize(
    "border", [(1, 1, 1, 1), (3, 3, 3, 3), (2, 0, 1, 3), (0, 1, 0, 0), (0, 0, 4, 0)]
)
@pytest.mark.parametrize("axes", [False, True])
def test_a_pad_of_slices_is_the_same_pad(mode, border, axes, run):
    top, left, bottom, right = border
    stored = {"border": whole(0, 0, top, left, 0, 0, bottom, right)}
    given = "image, border"
    if axes:
        stored = {"border": whole(left, top, right, bottom), "axes": whole(-1, 2)}
        given = "image, border, , axes"
    model = draw(f'out = Pad<mode="{mode}">({given})', stored)
    sliced = slice_pads(model)
    check(sliced)
    kinds = operators(sliced)
    assert set(kinds) == {"Slice", "Concat"}
    assert kinds.count("Concat") == (top + bottom > 0) + (left + right > 0)
    for size in ((8, 8), (7, 13)):
        np.testing.assert_array_equal(run(sliced, images(*size)), run(model, images(*size)))


def test_slices_step_forward_and_share_their_bounds():
    body = 'a = Pad<mode="reflect">(image, border) out = Pad<mode="reflect">(a, border)'
    sliced = slice_pads(draw(body, {"border": whole(0, 0, 1, 1, 0, 0, 1, 1)}))
    assert {len(node.input) for node in sliced.graph.node if node.op_type == "Slice"} == {4}
    assert len(sliced.graph.initializer) == 5  # 1, 2, -2, -1 and 3: axis 2 is the number 2
    assert len({node.name for node in sliced.graph.node}) == len(sliced.graph.node)


def test_one_mode_leaves_the_other():
    model = draw(
        'a = Pad<mode="reflect">(image, border) out = Pad<mode="edge">(a, border)',
        {"border": whole(0, 0, 1, 0, 0, 0, 0, 0)},
    )
    assert operators(slice_reflect(model)) == ["Slice", "Concat", "Pad"]
    assert operators(slice_edge(model)) == ["Pad", "Slice", "Concat"]


@pytest.mark.parametrize("border", [(0, 0, -1, 0, 0, 0, 1, 0), (0,) * 8])
def test_a_crop_or_no_border_is_not_sliced(border):
    model = draw('out = Pad<mode="reflect">(image, border)', {"border": whole(*border)})
    assert operators(slice_pads(model)) == ["Pad"]


def test_a_computed_border_stays():
    model = draw(
        "shape = Shape(image) border = Concat<axis = 0>(shape, shape) "
        'out = Pad<mode="reflect">(image, border)'
    )
    assert operators(without_pads(model)) == ["Shape", "Concat", "Pad"]


def test_no_pad_is_left_where_all_can_go(run):
    model = draw(
        'a = Pad<mode="reflect">(image, border) b = Pad(a, border) out = Conv(b, w)',
        {"border": whole(0, 0, 1, 1, 0, 0, 1, 1), "w": weight(4, 3, 3, 3)},
    )
    plain = without_pads(model)
    check(plain)
    assert "Pad" not in operators(plain)
    np.testing.assert_allclose(run(plain, images(9, 7)), run(model, images(9, 7)), atol=1e-6)
