from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper

from deploy.passes.rewrites import REWRITES, covers, kinds, variants, without
from tests.deploy.drawing import check, draw, images, operators, weight, whole


def network():
    """One of every kind that there is a way around."""
    return draw(
        'a = Pad<mode = "reflect">(image, border) b = Conv(a, w1) '
        "n = InstanceNormalization(b, s, h) "
        "r = Relu(n) z = Pad(r, border) c = Conv<strides = [2, 2]>(z, w2) "
        "t = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>(c, w2) "
        "u = ConvTranspose<strides = [2, 2]>(t, w3) "
        'e = Pad<mode = "edge">(u, border) f = Resize<mode = "linear">(e, , scales) '
        "g = Resize(f, , scales) out = Conv<strides = [4, 4]>(g, w1b)",
        {
            "border": whole(0, 0, 1, 1, 0, 0, 1, 1),
            "w1": weight(4, 3, 3, 3),
            "w2": weight(4, 4, 3, 3),
            "w3": weight(4, 4, 2, 2),
            "w1b": weight(3, 4, 4, 4),
            "s": weight(4),
            "h": weight(4),
            "scales": np.float32([1, 1, 2, 2]),
        },
    )


EVERYTHING = ("Pad", "InstanceNormalization", "ConvTranspose")


def test_a_kind_is_an_operator_and_its_mode():
    assert kinds(network()) == {
        "Pad(reflect)": 1,
        "Pad": 1,
        "Pad(edge)": 1,
        "Conv": 3,
        "Relu": 1,
        "InstanceNormalization": 1,
        "ConvTranspose(padded)": 1,
        "ConvTranspose": 1,
        "Resize(linear)": 1,
        "Resize": 1,
    }


def test_kinds_looks_into_branches():
    inner = helper.make_graph([helper.make_node("Pad", ["x"], ["o"], mode="wrap")], "g", [], [])
    model = draw("out = Relu(image)")
    model.graph.node.append(
        helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner)
    )
    assert kinds(model) == Counter({"Pad(wrap)": 2, "Relu": 1, "If": 1})


def test_an_operator_stands_for_all_its_modes():
    assert covers({"Pad"}, "Pad(reflect)")
    assert covers(("Pad(reflect)",), "Pad(reflect)")
    assert not covers({"Pad(reflect)"}, "Pad")
    assert not covers({"Pad(reflect)"}, "Pad(edge)")


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_removes_its_kind_and_keeps_the_images(name, run):
    model = network()
    rewritten, applied = without(model, {name})
    check(rewritten)
    assert applied == (REWRITES[name].name,)
    assert not [kind for kind in kinds(rewritten) if covers({name}, kind)]
    assert set(operators(rewritten)) - set(operators(model)) <= set(REWRITES[name].makes)
    for size in ((8, 8), (9, 6)):
        np.testing.assert_allclose(
            run(rewritten, images(*size)), run(model, images(*size)), atol=2e-5, rtol=0
        )


def test_everything_at_once(run):
    model = network()
    before = model.SerializeToString()
    rewritten, applied = without(model, EVERYTHING)
    check(rewritten)
    assert applied == tuple(REWRITES[name].name for name in EVERYTHING)
    assert model.SerializeToString() == before
    assert not [kind for kind in kinds(rewritten) if covers(EVERYTHING, kind)]
    np.testing.assert_allclose(run(rewritten, images(8, 8)), run(model, images(8, 8)), atol=2e-5)
    again = without(model, EVERYTHING)[0]
    assert again.SerializeToString(deterministic=True) == rewritten.SerializeToString(
        deterministic=True
    )


def test_nothing_to_do_gives_the_model_back():
    model = draw("out = Conv(image, w)", {"w": weight(3, 3, 1, 1)})
    rewritten, applied = without(model, EVERYTHING)
    assert rewritten is model
    assert applied == ()
    assert without(network(), {"Tanh"})[1] == ()


def test_no_way_leads_over_another_operator_that_is_lacking():
    model = network()
    lacking = {*EVERYTHING, "ReduceMean", "DepthToSpace"}
    rewritten, applied = without(model, lacking)
    assert applied == (REWRITES["Pad"].name,)
    assert {"InstanceNormalization", "ConvTranspose(padded)"} <= set(kinds(rewritten))


def test_variants_of_a_device_without_troubles(make_profile):
    model = network()
    ((name, graph),) = variants(model, make_profile())
    assert name == "as exported"
    assert graph is model


def test_variants_leave_out_what_the_device_lacks_and_try_without_what_is_slow(make_profile):
    profile = make_profile(
        unsupported_operators=("Pad(reflect)",), slow_operators=("ConvTranspose", "Elu")
    )
    (first, plain), (second, faster) = variants(network(), profile)
    assert (first, second) == (
        "as exported",
        "transposed convolutions as sub-pixel convolutions",
    )
    assert "Pad(reflect)" not in kinds(plain)
    assert "ConvTranspose" in kinds(plain)
    assert "Pad(reflect)" not in kinds(faster)
    assert "ConvTranspose" not in kinds(faster)


def test_what_is_slow_is_not_left_for_what_is_lacking(make_profile):
    profile = make_profile(
        unsupported_operators=("DepthToSpace",), slow_operators=("ConvTranspose",)
    )
    assert [name for name, _ in variants(network(), profile)] == ["as exported"]


def test_a_norm_that_others_undo_is_left_out_in_the_variant_only(make_profile):
    norms = {f"{what}{at}": weight(3, seed=at) for what in "s" for at in range(3)}
    model = draw(
        "a = InstanceNormalization(image, s0, zero) b = Conv(a, mix) "
        "c = InstanceNormalization(b, s1, zero) d = Relu(c) e = Conv<group = 3>(d, each) "
        "out = InstanceNormalization(e, s2, zero)",
        {"mix": weight(3, 3, 1, 1), "each": weight(3, 1, 3, 3), "zero": np.zeros(3, np.float32)}
        | norms,
    )
    (_, plain), (name, faster) = variants(model, make_profile())
    assert plain is model
    assert name == "norms left out that others undo"
    assert kinds(plain) - kinds(faster) == {"InstanceNormalization": 1}
    name, faster = variants(model, make_profile(slow_operators=("InstanceNormalization",)))[1]
    assert name == "norms left out that others undo; instance norms decomposed"
    assert kinds(faster)["ReduceMean"] == 4


def test_every_rewrite_says_what_it_costs():
    assert all(rewrite.name and rewrite.cost for rewrite in REWRITES.values())
    operators_known = {schema.name for schema in onnx.defs.get_all_schemas()}
    for name, rewrite in REWRITES.items():
        assert {name.partition("(")[0], *rewrite.makes} <= operators_known
