import re

import numpy as np
import onnx
import pytest

from deploy.passes.upsampling import cropped, sub_pixel
from tests.deploy.drawing import check, draw, images, operators, weight


def upsample(kernel, settings, *, bias=True, groups=1, opset=18):
    stored = {"w": weight(6, 4 // groups, *kernel), "b": weight(4), "v": weight(6, 3, 1, 1)}
    inputs = "a, w, b" if bias else "a, w"
    body = f"a = Conv(image, v) out = ConvTranspose<{settings}>({inputs})"
    return draw(body, {k: v for k, v in stored.items() if bias or k != "b"}, opset=opset)


FAMILIES = [
    ((3, 3), "strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]"),
    ((4, 4), "strides = [2, 2], pads = [1, 1, 1, 1]"),
    ((2, 2), "strides = [2, 2]"),
]


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        *FAMILIES,
        ((3, 3), "strides = [2, 2]"),
        ((3, 3), "strides = [2, 2], pads = [1, 1, 1, 1]"),
        ((3, 3), "strides = [2, 2], output_padding = [1, 1]"),
        ((5, 5), "strides = [2, 2], pads = [2, 2, 2, 2], output_padding = [1, 1]"),
        ((4, 3), "strides = [2, 2], pads = [0, 1, 3, 2]"),
        ((1, 1), "strides = [2, 2], output_padding = [1, 0]"),
        ((6, 6), "strides = [4, 4], pads = [1, 1, 1, 1]"),
        ((7, 5), "strides = [3, 3], pads = [6, 0, 2, 4], output_padding = [1, 2]"),
        ((3, 3), "strides = [1, 1], pads = [1, 1, 1, 1]"),
        ((2, 2), "strides = [3, 3], pads = [4, 0, 5, 0]"),
    ],
)
def test_a_sub_pixel_convolution_is_the_same(kernel, settings, run):
    model = upsample(kernel, settings)
    before = model.SerializeToString()
    spread = sub_pixel(model)
    check(spread)
    assert model.SerializeToString() == before
    assert operators(spread)[:3] == ["Conv", "Conv", "DepthToSpace"]
    assert "ConvTranspose" not in operators(spread)
    for size in ((8, 8), (5, 9)):
        expected = run(model, images(*size))
        np.testing.assert_allclose(run(spread, images(*size)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("kernel", "settings"), FAMILIES)
def test_the_upsamplers_of_gans_need_no_slice(kernel, settings):
    spread = sub_pixel(upsample(kernel, settings, bias=False, opset=13))
    check(spread)
    assert operators(spread) == ["Conv", "Conv", "DepthToSpace"]
    wide = spread.graph.node[1]
    assert len(wide.input) == 2
    taps = {3: 2, 4: 3, 2: 1}[kernel[0]]
    stored = {tensor.name: tuple(tensor.dims) for tensor in spread.graph.initializer}
    assert stored[wide.input[1]] == (16, 6, taps, taps)


ACTIVATIONS = ["Relu(t)", "LeakyRelu<alpha = 0.2>(t)", "Clip(t, low)", "PRelu(t, low)", "Tanh(t)"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_goes_before_the_spreading(activation, run):
    model = draw(
        f"t = ConvTranspose<strides = [2, 2]>(image, w) r = {activation} out = Sigmoid(r)",
        {
            "w": weight(3, 4, 2, 2),
            "low": np.float32([-0.1]).reshape(() if "Cl" in activation else 1),
        },
    )
    spread = sub_pixel(model)
    onnx.checker.check_model(spread, full_check=True)
    before = ["Conv", re.match(r"\w+", activation)[0], "Sigmoid"]
    assert operators(spread) == [*before, "DepthToSpace"]
    np.testing.assert_allclose(run(spread, images(5, 9)), run(model, images(5, 9)), atol=1e-6)


@pytest.mark.parametrize(
    "rest",
    [
        "r = Relu(t) out = Add(r, t)",
        "out = PRelu(t, slopes)",
        "r = Concat<axis = 1>(t, t) out = Relu(r)",
    ],
    ids=["read twice", "a slope for each channel", "not an activation"],
)
def test_what_needs_the_pixels_in_place_stays_behind(rest, run):
    model = draw(
        f"t = ConvTranspose<strides = [2, 2]>(image, w) {rest}",
        {"w": weight(3, 4, 2, 2), "slopes": weight(4, 1, 1)},
    )
    spread = sub_pixel(model)
    assert operators(spread) == ["Conv", "DepthToSpace", *operators(model)[1:]]
    np.testing.assert_allclose(run(spread, images(5, 9)), run(model, images(5, 9)), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        upsample((4, 4), "strides = [2, 2], group = 2", groups=2),
        upsample((4, 4), "strides = [2, 1]"),
        upsample((3, 3), "strides = [2, 2], dilations = [2, 2]"),
        upsample((3, 3), "strides = [2, 2], output_shape = [16, 16]"),
        upsample((3, 3), 'strides = [2, 2], auto_pad = "SAME_UPPER"'),
        draw(
            "w = Relu(raw) out = ConvTranspose<strides = [2, 2]>(image, w)",
            {"raw": weight(3, 4, 2, 2)},
        ),
    ],
    ids=["groups", "two strides", "dilation", "output_shape", "SAME pads", "computed weights"],
)
def test_what_has_no_sub_pixel_form_stays(model):
    assert operators(sub_pixel(model)) == operators(model)


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        FAMILIES[0],
        FAMILIES[1],
        ((5, 5), "strides = [3, 2], pads = [0, 2, 1, 0], dilations = [1, 1]"),
        ((4, 4), "strides = [2, 2], pads = [2, 2, 2, 2], output_padding = [1, 1]"),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_cropped_transposed_convolution_is_the_same(kernel, settings, groups, run):
    model = upsample(kernel, f"{settings}, group = {groups}", groups=groups)
    bare = cropped(model)
    check(bare)
    assert operators(bare) == ["Conv", "ConvTranspose", "Slice"]
    pads = {a.name: list(a.ints) for a in bare.graph.node[1].attribute}
    assert not any(pads["pads"])
    assert not any(pads["output_padding"])
    for size in ((8, 8), (5, 9)):
        np.testing.assert_allclose(
            run(bare, images(*size)), run(model, images(*size)), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(
    "settings", ["strides = [2, 2]", "strides = [2, 2], output_padding = [1, 1]"]
)
def test_what_needs_no_crop_or_cannot_be_cropped_stays(settings):
    model = upsample((3, 3), settings)
    assert cropped(model) == model
