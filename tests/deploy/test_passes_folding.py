import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from deploy.passes.folding import fold
from deploy.passes.shapes import pin_shape
from tests.deploy.drawing import check, draw, images, operators, weight, whole

STATISTICS = {
    "gamma": 1 + weight(4, seed=1),
    "beta": weight(4, seed=2),
    "mean": weight(4, seed=3),
    "variance": (0.5 + np.abs(weight(4, seed=4))).astype(np.float32),
}
NORM = "out = BatchNormalization<epsilon = 0.01>(a, gamma, beta, mean, variance)"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("Conv(image, w, b)", (4, 3, 3, 3)),
        ("Conv(image, w)", (4, 3, 3, 3)),
        ("ConvTranspose<strides = [2, 2]>(image, w, b)", (3, 4, 3, 3)),
        ("Conv<group = 2>(six, w, b)", (4, 3, 3, 3)),
        ("ConvTranspose<group = 2>(six, w, b)", (6, 2, 3, 3)),
    ],
)
@pytest.mark.parametrize("opset", [18, 13])
def test_batch_norm_goes_into_the_convolution(layer, shape, opset, run):
    before = "six = Concat<axis = 1>(image, image)" if "six" in layer else ""
    stored = {"w": weight(*shape), "b": weight(4, seed=9), **STATISTICS}
    model = draw(f"{before} a = {layer} {NORM}", stored, opset=opset)
    folded = fold(model)
    check(folded)
    assert operators(folded) == operators(model)[:-1]
    for size in ((8, 8), (5, 9)):
        np.testing.assert_allclose(
            run(folded, images(*size)), run(model, images(*size)), atol=3e-6, rtol=0
        )


def test_a_chain_of_sums_and_products_goes_into_the_convolution(run):
    model = draw(
        "a = Conv(image, w) b = Mul(s, a) c = Add(b, t) d = Sub(one, c) e = Div(d, s2) "
        "f = Sub(e, t) g = BatchNormalization(f, gamma, beta, mean, variance) out = Tanh(g)",
        {
            "w": weight(4, 3, 3, 3),
            "s": weight(1, 4, 1, 1),
            "t": weight(4, 1, 1, seed=5),
            "one": np.float32(1),
            "s2": np.array([2.5], np.float32),
            **STATISTICS,
        },
    )
    folded = fold(model)
    check(folded)
    assert operators(folded) == ["Conv", "Tanh"]
    np.testing.assert_allclose(run(folded, images(9, 7)), run(model, images(9, 7)), atol=1e-6)


@pytest.mark.parametrize(
    "body",
    [
        f"a = Conv(image, w) r = Relu(a) s = Add(r, a) {NORM.replace('(a', '(s')}",
        "a = Conv(image, w) out = Mul(a, wide)",
        "a = Conv(image, w) out = Mul(a, a)",
        "a = Conv(image, w) out = Div(one, a)",
        "a = Conv(image, w) out = Div(a, zeros)",
        "a = Conv(image, thin) out = Add(a, beta4)",
        "v = Relu(w) a = Conv(image, w) b = Conv(image, w) c = Mul(a, one) d = Add(b, c) "
        "e = Mul(c, d) out = Add(e, a)",
    ],
    ids=["read twice", "a picture", "a square", "under", "by zero", "broadcast", "read again"],
)
def test_what_is_not_one_factor_for_each_channel_stays(body, run):
    stored = {
        "w": weight(4, 3, 3, 3),
        "thin": weight(1, 3, 3, 3),
        "wide": weight(1, 1, 6, 6),
        "one": np.float32(3),
        "zeros": np.zeros(1, np.float32),
        "beta4": weight(4, 1, 1),
        **STATISTICS,
    }
    model = draw(body, stored)
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    kept = [name for name in operators(model) if name != "Relu" or "s = Add" in body]
    assert operators(folded) == kept
    image = images(8, 8)
    np.testing.assert_array_equal(run(folded, image), run(model, image))


def test_batch_norm_that_learns_stays():
    learns = "out, m, v = BatchNormalization<training_mode = 1>(a, gamma, beta, mean, variance)"
    model = draw(f"a = Conv(image, w) {learns}", {"w": weight(4, 3, 3, 3), **STATISTICS})
    assert operators(fold(model)) == ["Conv", "BatchNormalization"]


def test_one_weight_for_two_convolutions_is_folded_for_each(run):
    model = draw(
        "a = Conv(image, w) b = Mul(a, two) c = Conv(image, w) d = Mul(c, three) out = Sub(b, d)",
        {"w": weight(4, 3, 3, 3), "two": np.float32(2), "three": np.float32(3)},
    )
    folded = fold(model)
    check(folded)
    assert operators(folded) == ["Conv", "Conv", "Sub"]
    np.testing.assert_allclose(run(folded, images(8, 8)), run(model, images(8, 8)), atol=1e-6)


IDLE = [
    "Identity(a)",
    "Dropout(a)",
    "Dropout(a, half, never)",
    "Cast<to = 1>(a)",
    "Transpose<perm = [0, 1, 2, 3]>(a)",
    "Concat<axis = 1>(a)",
    "Pad(a, nothing)",
    "Mul(a, one)",
    "Div(a, one)",
    "Add(a, zero)",
    "Sub(a, zero)",
]
NEUTRAL = {
    "one": np.float32(1),
    "zero": np.zeros(1, np.float32),
    "half": np.float32(0.5),
    "never": np.array(False),
    "nothing": whole(*[0] * 8),
}


@pytest.mark.parametrize("idle", IDLE)
def test_what_does_nothing_goes(idle, run):
    for body in (
        f"a = Relu(image) b = {idle} out = Tanh(b)",
        f"a = Relu(image) out = {idle}",
        f"b = {idle.replace('(a', '(image')} out = Tanh(b)",
    ):
        model = draw(body, {k: v for k, v in NEUTRAL.items() if k in body})
        folded = fold(model)
        check(folded)
        assert set(operators(folded)) <= {"Relu", "Tanh"}
        assert folded.graph.output[0].name == "out"
        np.testing.assert_array_equal(run(folded, images(5, 4)), run(model, images(5, 4)))


@pytest.mark.parametrize(
    "body",
    [
        "out = Identity(image)",
        "a = Relu(image) b = Identity(a) c = Add(a, two) out = Mul(b, c)",
        "a = Relu(image) out = Add(a, column)",
        "a = Relu(image) b, mask = Dropout(a) c = Cast<to = 1>(mask) out = Add(b, c)",
        "a = Relu(image) out = Dropout(a, half, always)",
        "a = Relu(image) b = Transpose<perm = [0, 1, 3, 2]>(a) out = Cast<to = 10>(b) ",
        "m = ReduceMax<keepdims = 0>(image) n = Add(m, one4) out = Add(image, n)",
    ],
    ids=[
        *("the image itself", "read twice", "a sum", "a mask", "a dropout that drops", "a change"),
        "a new axis",
    ],
)
def test_what_does_something_stays(body, run):
    stored = {
        "two": np.float32(2),
        "column": weight(3, 1, 1),
        "half": np.float32(0.5),
        "always": np.array(True),
        "one4": np.zeros((1, 1, 1, 1), np.float32),
    }
    model = draw(body, {k: v for k, v in stored.items() if k in body})
    kept = [name for name in operators(model) if name != "Identity" or body.startswith("out")]
    folded = fold(model)
    assert operators(folded) == kept
    if "always" not in body and "to = 10" not in body:
        np.testing.assert_array_equal(run(folded, images(5, 4)), run(model, images(5, 4)))


def test_arithmetic_on_constants_is_done_here(run):
    model = draw(
        "two = Constant<value = int64[1] {2}>() four = ConstantOfShape<value = int64[1] {1}>(n) "
        "pairs = Reshape(four, by2) doubled = Mul(pairs, two) flat = Reshape(doubled, minus) "
        "zeros = Sub(flat, flat) edge = Concat<axis = 0>(zeros, flat) "
        'pads = Cast<to = 7>(order) out = Pad<mode = "reflect">(image, pads)',
        {
            "n": whole(4),
            "by2": whole(2, 2),
            "minus": whole(-1),
            "order": np.int32([0, 0, 1, 2] * 2),
        },
    )
    folded = fold(model)
    check(folded)
    assert operators(folded) == ["Pad"]
    np.testing.assert_array_equal(run(folded, images(5, 4)), run(model, images(5, 4)))
    assert fold(folded) == folded


def test_noise_and_integers_are_not_frozen():
    model = draw(
        "noise = RandomNormal<shape = [1, 3, 1, 1]>() w = DequantizeLinear(bytes, step) "
        "a = Conv(image, w) out = Add(a, noise)",
        {"bytes": np.ones((3, 3, 1, 1), np.int8), "step": np.float32(0.1)},
    )
    assert operators(fold(model)) == operators(model)


def test_weights_that_are_inputs_too_become_weights_only(run):
    model = draw("out = Conv(image, w)", {"w": weight(4, 3, 3, 3)}, opset=11)
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    model.ir_version = 3
    folded = fold(model)
    check(folded)
    assert [value.name for value in folded.graph.input] == ["image"]
    np.testing.assert_array_equal(run(folded, images(5, 4)), run(model, images(5, 4)))


def test_a_value_that_a_branch_reads_keeps_its_name(run):
    model = draw(
        "a = Relu(image) b = Identity(a) "
        "out = If<then_branch = yes () => (float[n, c, oh, ow] t) {t = Tanh(b)}, "
        "else_branch = no () => (float[n, c, oh, ow] e) {e = Neg(b)}>(flag)",
        {"flag": np.array(True)},
    )
    folded = fold(model)
    onnx.checker.check_model(folded, full_check=True)
    np.testing.assert_array_equal(run(folded, images(5, 4)), run(model, images(5, 4)))


SHAPED = (
    "a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w) shape = Shape(image) "
    "size = Slice(shape, two, four) nc = Shape<end = 2>(a) all = Concat<axis = 0>(nc, size) "
    'out = Resize<mode = "linear">(a, , , all)'
)


def shaped():
    return draw(SHAPED, {"w": weight(4, 3, 3, 3), "two": whole(2), "four": whole(4)})


@pytest.mark.parametrize("size", [(16, 24), (17, 9)])
def test_a_pinned_model_computes_no_shapes(size, run):
    model = shaped()
    assert operators(fold(model)) == ["Conv", "Shape", "Slice", "Concat", "Resize"]
    pinned = pin_shape(model, *size)
    check(pinned)
    assert operators(pinned) == ["Conv", "Resize"]
    for value, channels in ((pinned.graph.input[0], 3), (pinned.graph.output[0], 4)):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert dims == [1, channels, *size]
    np.testing.assert_allclose(run(pinned, images(*size)), run(model, images(*size)), atol=1e-6)
    assert pin_shape(pinned, *size) == pinned


def test_a_size_the_model_is_not_made_for():
    with pytest.raises(
        ValueError,
        match=r"takes images of \(1, 3, 16, 24\) and cannot be pinned to \(1, 3, 16, 16\); export",
    ):
        pin_shape(pin_shape(shaped(), 16, 24), 16, 16)


def test_a_size_the_model_cannot_take():
    model = draw(
        "a = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(image) "
        "b = Resize(a, , scales) out = Concat<axis = 1>(image, b)",
        {"scales": np.float32([1, 1, 2, 2])},
    )
    assert pin_shape(model, 16, 12).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 6
    with pytest.raises(ValueError, match=r"cannot translate images of 15 x 12 .*multiple of its"):
        pin_shape(model, 15, 12)


def test_stored_bytes_of_the_same_model_are_the_same():
    one, two = (fold(shaped()).SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
    assert numpy_helper.to_array(fold(shaped()).graph.initializer[0]).shape == (4, 3, 3, 3)
