import numpy as np
import pytest

from deploy.passes.norms import cancel_norms, decompose_norms
from tests.deploy.drawing import check, draw, images, operators, weight, whole

DECOMPOSED = ["ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div", "Mul"]


def norm_of(channels, *, shift=0.0, seed=0):
    scale = 1 + 0.3 * weight(channels, seed=seed)
    return scale.astype(np.float32), np.full(channels, shift, dtype=np.float32)


@pytest.mark.parametrize("opset", [18, 17, 13])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_a_decomposed_norm_is_the_same(opset, shift, run):
    scale, shifts = norm_of(3, shift=shift)
    model = draw(
        "out = InstanceNormalization<epsilon = 0.001>(image, s, b)",
        {"s": scale, "b": shifts},
        opset=opset,
    )
    plain = decompose_norms(model)
    check(plain)
    assert operators(plain) == DECOMPOSED + ["Add"] * (shift != 0)
    for size in ((16, 16), (5, 9)):
        np.testing.assert_allclose(
            run(plain, images(*size)), run(model, images(*size)), atol=1e-5, rtol=0
        )


def test_a_large_mean_costs_no_digits(run):
    scale, shifts = norm_of(3)
    model = draw("out = InstanceNormalization(image, s, b)", {"s": scale, "b": shifts})
    near = images(32, 32)
    far = near + np.float32(1000)  # its square holds 3 digits of the variance
    np.testing.assert_allclose(run(decompose_norms(model), far), run(model, near), atol=3e-3)


def test_a_norm_with_computed_weights_stays():
    model = draw("s = Relu(raw) out = InstanceNormalization(image, s, raw)", {"raw": norm_of(3)[0]})
    assert operators(decompose_norms(model)) == ["Relu", "InstanceNormalization"]


def mobile(
    *,
    shift=0.0,
    act="Relu(n2)",
    pad="reflect",
    value=None,
    mix="strides = [1, 1]",
    reader="n2",
    depthwise=6,
    first=True,
):
    """A residual block of a mobile generator: two separable convolutions."""
    stored = {
        "w0": weight(6, 3, 3, 3),
        "w1": weight(6, 1, 3, 3),
        "w2": weight(6, 6, 1, 1),
        "b2": weight(6, seed=1),
        "w3": weight(6, 6 // depthwise, 3, 3, seed=2),
        "b3": weight(6, seed=4),
        "border": whole(0, 0, 1, 1, 0, 0, 1, 1),
        **dict(zip(("s1", "h1"), norm_of(6, shift=0.2), strict=True)),
        **dict(zip(("s2", "h2"), norm_of(6, shift=shift, seed=5), strict=True)),
        **dict(zip(("s3", "h3"), norm_of(6, shift=0.1, seed=6), strict=True)),
    }
    stored["s2"][0] *= -1
    filling = ""
    if value is not None:
        stored["value"], filling = np.float32(value), ", value"
    before = "InstanceNormalization(c1, s1, h1)" if first else "Relu(c1)"
    return draw(
        "c0 = Conv(image, w0) c1 = Conv<group = 6>(c0, w1) "
        f"n1 = {before} c2 = Conv<{mix}>(n1, w2, b2) "
        f"n2 = InstanceNormalization(c2, s2, h2) r = {act} "
        f'p = Pad<mode = "{pad}">(r, border{filling}) c3 = Conv<group = {depthwise}>(p, w3, b3) '
        f"n3 = InstanceNormalization(c3, s3, h3) small = GlobalAveragePool({reader}) "
        "out = Add(n3, small)",
        stored,
    )


@pytest.mark.parametrize(
    "block",
    [
        mobile(reader="n3"),
        mobile(reader="n3", act="LeakyRelu<alpha = 0.2>(n2)", pad="edge"),
        mobile(reader="n3", pad="constant"),
        mobile(reader="n3", pad="constant", value=0.0),
    ],
    ids=["mobile", "leaky", "zeros", "stored zeros"],
)
def test_a_norm_that_the_next_one_undoes_goes(block, run):
    plain = cancel_norms(block)
    check(plain)
    assert operators(plain).count("InstanceNormalization") == 2
    assert len(plain.graph.node) == len(block.graph.node) - 1
    for size in ((24, 24), (17, 30)):
        expected = run(block, images(*size))
        error = np.mean((run(plain, images(*size)) - expected) ** 2)
        assert 10 * np.log10(4 / error) > 75  # the epsilons remain


@pytest.mark.parametrize(
    "block",
    [
        mobile(),
        mobile(reader="n3", shift=0.3),
        mobile(reader="n3", act="Tanh(n2)"),
        mobile(reader="n3", pad="constant", value=0.5),
        mobile(reader="n3", mix="strides = [2, 2]"),
        mobile(reader="n3", mix="pads = [1, 1, 1, 1]"),
        mobile(reader="n3", depthwise=1),
        mobile(reader="n3", depthwise=3),
        mobile(reader="n3", first=False),
    ],
    ids=[
        *("read elsewhere", "a shift", "tanh", "ones around", "every other pixel", "zeros around"),
        *("dense", "two by two", "an unknown mean"),
    ],
)
def test_a_norm_that_nothing_undoes_stays(block):
    assert operators(cancel_norms(block)) == operators(block)
