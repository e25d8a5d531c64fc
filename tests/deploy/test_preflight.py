from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy import graph
from deploy.findings import Finding
from deploy.memory import build_mib, free_mib, weights_mib
from deploy.preflight import preflight
from devices.profile import TensorRt, load_profile

GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


def tensorrt(version: str = "10.3", **changes: object) -> TensorRt:
    facts = {"version": version, "compute_capability": "8.7", "workspace_mib": 64} | changes
    return TensorRt.model_validate(facts)


@pytest.fixture
def jetson(make_profile):
    """A profile of a board with TensorRT, whatever the machine of the tests is."""

    def make(trt=None, **changes):
        facts = {
            "architecture": "aarch64",
            "backends": ("tensorrt", "onnxruntime"),
            "execution_providers": GPU,
            "precisions": ("int8", "fp16", "fp32"),
            "tensorrt": trt or tensorrt(),
        }
        return make_profile(**facts | changes)

    return make


def widths(*channels: int) -> onnx.ModelProto:
    """Convolutions of one pixel, one after another, with ReLU between; any height and width."""
    rng = np.random.default_rng(0)
    nodes, stored, value = [], [], "x"
    for at, (before, after) in enumerate(zip((3, *channels), channels, strict=False)):
        weight = rng.normal(size=(after, before, 1, 1)).astype(np.float32)
        stored.append(numpy_helper.from_array(weight, f"w{at}"))
        nodes.append(helper.make_node("Conv", [value, f"w{at}"], [f"c{at}"]))
        nodes.append(helper.make_node("Relu", [f"c{at}"], [f"r{at}"]))
        value = f"r{at}"
    shape = [1, 3, "h", "w"]
    made = helper.make_graph(
        nodes,
        "widths",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)],
        stored,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def with_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """An InstanceNormalization in place of the first ReLU."""
    norm = next(node for node in model.graph.node if node.op_type == "Relu")
    norm.op_type = "InstanceNormalization"
    norm.input.extend(["scale", "shift"])
    for name in ("scale", "shift"):
        array = np.ones(8, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def found(checked, kind: str) -> Finding:
    (finding,) = [finding for finding in checked.findings if finding.kind == kind]
    assert not finding.blocking
    return finding


def test_what_it_tells_people(make_student, make_profile):
    checked = preflight(make_student(), make_profile())
    assert graph.opset(checked.model) == 18
    assert checked.findings == ()
    assert checked.summary == ("opset 18, 8 operators of 5 kinds, at least 0 of 512 MiB at 32 x 32")


def test_a_finding_is_a_sentence():
    many = Finding("Pad(reflect)", 18, "not on DLA", "use student family `edge`")
    assert str(many) == "Pad(reflect) x18: not on DLA; use student family `edge`"
    assert str(Finding("Tanh", 1, "no", "none")) == "Tanh: no; none"


def test_an_older_runtime_gets_an_older_opset(make_student, make_profile):
    checked = preflight(make_student(), make_profile(opset=17))
    assert graph.opset(checked.model) == 17
    assert checked.summary.startswith("opset 17")
    assert checked.findings == (), "that is what the profile asks for"


@pytest.mark.parametrize(
    ("version", "opset"),
    [("7.0", 11), ("8.2.1", 13), ("8.4", 13), ("8.5", 17), ("8.6.2", 17), ("10.3", 18)],
)
def test_the_opset_is_one_that_its_tensorrt_reads(make_student, jetson, run, version, opset):
    student = make_student()
    checked = preflight(student, jetson(tensorrt(version)))
    assert graph.opset(checked.model) == opset
    if opset < 18:
        finding = found(checked, "opset 18")
        assert finding.why == f"TensorRT {version} reads opset {opset} at most"
        assert finding.remedy == f"the student is written in opset {opset}"
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 24, 24)).astype(np.float32)
    np.testing.assert_array_equal(run(checked.model, image), run(student, image))


def test_all_that_blocks_is_said_at_once(make_student, make_profile):
    profile = make_profile(
        unsupported_operators=("Tanh", "Selu"), opset=9, memory_mib=16, image_size=1024
    )
    with pytest.raises(ValueError, match="here cannot run Selu") as refused:
        preflight(make_student(op="Selu"), profile)
    said = str(refused.value)
    assert said.startswith(
        "here cannot run Selu: here has no such operator; choose another student family or "
        "another device; and Tanh: here has no such operator; end the student in Clip; and "
        "opset 18: the student is ONNX opset 18 and cannot be written in opset 9: "
    )
    assert "; use a profile with a newer runtime, or another student family; and " in said
    assert "at 1024 x 1024 and the profile allows 16; prune it further" in said


@pytest.mark.parametrize("entry", ["Pad", "Pad(reflect)"])
def test_a_way_around_an_operator_is_taken(make_student, make_profile, run, entry):
    student = make_student()
    checked = preflight(student, make_profile(unsupported_operators=(entry,)))
    assert "Pad" not in graph.operators(checked.model)
    finding = found(checked, "Pad(reflect)")
    assert finding.count == 2
    assert finding.why == "here has no such operator"
    assert finding.remedy.startswith("rewritten: ")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, 24, 24)).astype(np.float32)
    np.testing.assert_allclose(run(checked.model, image), run(student, image), atol=1e-6)
    assert graph.operators(student)["Pad"] == 2, "the model given is not changed"


def test_a_way_around_that_is_closed_too(make_student, make_profile):
    profile = make_profile(unsupported_operators=("Pad", "Slice"))
    with pytest.raises(ValueError, match=r"cannot run Pad\(reflect\) x2: .* that pads inside"):
        preflight(make_student(), profile)


def test_a_slow_operator_is_named_with_what_is_tried_beside_it(make_student, make_profile):
    profile = make_profile(slow_operators=("Pad", "Tanh"))
    checked = preflight(make_student(), profile)
    assert found(checked, "Pad(reflect)").remedy.startswith("tried beside it: ")
    assert found(checked, "Tanh").remedy == "measured as it is"
    assert checked.said.splitlines() == [
        checked.summary,
        *(str(finding) for finding in checked.findings),
    ]
    assert graph.operators(checked.model)["Pad"] == 2, "it is not taken out here"


def test_norms_stay_in_fp32_on_tensorrt(make_student, jetson, make_profile):
    model = with_norms(make_student())
    finding = found(preflight(model, jetson()), "InstanceNormalization")
    assert finding.remedy == "kept in fp32, between casts"
    assert preflight(model, jetson(precisions=("fp32",))).findings == ()
    assert preflight(model, make_profile()).findings == (), "not TensorRT"


def test_an_int8_student_on_a_gpu_without_int8(make_student, jetson):
    model = make_student()
    for name, op in (("q", "QuantizeLinear"), ("d", "DequantizeLinear")):
        read = "image" if name == "q" else "q"
        node = helper.make_node(op, [read, "step", "zero"], [name])
        model.graph.node.insert(0 if name == "q" else 1, node)
    model.graph.node[2].input[0] = "d"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
    old = jetson(tensorrt(compute_capability="5.3"), precisions=("fp16", "fp32"))
    with pytest.raises(ValueError, match=r"QuantizeLinear: the student is INT8 already, .* fp16"):
        preflight(model, old)
    assert preflight(model, jetson()).findings == ()


def test_channels_between_the_blocks_are_slow(make_profile):
    checked = preflight(widths(16, 12, 20, 12, 3), make_profile())
    finding = found(checked, "Conv")
    assert finding.count == 3
    assert finding.why == "slow: 12, 20 channels, and kernels work in blocks of 8"
    assert "prunes to multiples of 8" in finding.remedy


def test_the_last_layer_is_as_wide_as_an_image(make_profile):
    assert preflight(widths(16, 8, 3), make_profile()).findings == ()


def test_a_student_that_does_not_fit(make_student, make_profile):
    with pytest.raises(
        ValueError,
        match=r"a student of at least \d+ MiB: it takes that at 1024 x 1024 and the profile "
        r"allows 16; prune it further, or give the profile a smaller image_size",
    ):
        preflight(make_student(), make_profile(memory_mib=16, image_size=1024))


def test_a_board_that_has_too_little_free(make_student, make_profile):
    profile = make_profile(image_size=1024)
    with pytest.raises(ValueError, match=r"and 16 MiB are free on this board now; stop other"):
        preflight(make_student(), profile, free_mib=16.0)
    checked = preflight(make_student(), profile, free_mib=free_mib())
    assert checked.summary.endswith(" MiB free now")


def test_building_an_engine_takes_the_memory_both_share(make_student, jetson):
    checked = preflight(make_student(), jetson(), free_mib=63.0)
    finding = found(checked, "an engine build of up to 64 MiB")
    assert "share the 63 MiB that are free now" in finding.why
    assert "lower tensorrt.workspace_mib" in finding.remedy
    assert preflight(make_student(), jetson(), free_mib=65.0).findings == ()
    assert "up to 64 MiB more while an engine is built" in checked.summary


def test_a_graphics_card_has_memory_of_its_own(make_student, jetson):
    assert build_mib(make_student(), jetson(architecture="x86_64")) is None
    assert build_mib(make_student(), jetson()) == 64 + weights_mib(make_student())


def test_a_dla_build_names_what_leaves_it(make_student, jetson):
    checked = preflight(make_student(), jetson(tensorrt("8.5", dla_cores=2, use_dla=True)))
    assert found(checked, "Pad(reflect)").count == 2
    assert found(checked, "fp32").remedy == "that engine runs on the GPU"
    assert found(checked, "dynamic dims").count == 2


def test_a_dla_that_newer_versions_do_not_have(make_student, jetson):
    with pytest.raises(ValueError, match=r"a DLA: TensorRT 11\.0 supports none; set use_dla = fal"):
        preflight(make_student(), jetson(tensorrt("11.0", dla_cores=2, use_dla=True)))
    doubtful = preflight(make_student(), jetson(tensorrt("10.13", dla_cores=2, use_dla=True)))
    assert "names TensorRT 10.7 as the last" in found(doubtful, "a DLA").why


def test_qnn_wants_one_size(make_student, make_profile):
    profile = make_profile(execution_providers=("QNNExecutionProvider",))
    checked = preflight(make_student(), profile)
    finding = found(checked, "dynamic dims")
    assert finding.why == "QNN compiles fixed sizes only"
    assert finding.remedy == "pinned: the engine takes images of 32 x 32 and no others"
    shape = checked.model.graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 3, 32, 32]


def test_a_refused_device(make_student):
    with pytest.raises(ValueError, match=r"coral-edge-tpu is refused: .*; choose another: cpu, "):
        preflight(make_student(), load_profile("coral-edge-tpu"))
