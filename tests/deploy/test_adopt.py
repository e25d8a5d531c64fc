"""Generators that others made: checked, made dynamic, tried, counted, and turned into exports."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from deploy import foreign
from deploy.adopt import adopt
from deploy.artifacts import EXPORT, StudentExport
from deploy.foreign import count, read_foreign
from deploy.golden import GoldenPairs
from deploy.imaging import RGB, from_model, range_spec, to_model

SIZE = 32
BGR01 = range_spec(0, 1, "bgr")


def generator(
    *,
    size=(64, 64),
    batch=1,
    opset=17,
    final="Sigmoid",
    transposed=True,
    channels_last=False,
    sizes=False,
    dtype=TensorProto.FLOAT,
    stride=2,
):
    """Conv 3 -> 8, ReLU, ConvTranspose 8 -> 3 (or Resize and Conv), Sigmoid."""
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        values = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    stored = [weight("w1", 8, 3, 3, 3), weight("b1", 8)]
    nodes = [
        helper.make_node("Conv", ["in", "w1", "b1"], ["c"], strides=[stride] * 2, pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
    ]
    if transposed:
        stored += [weight("w2", 8, 3, 4, 4)]
        up = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node("ConvTranspose", ["r", "w2"], ["y"], **up))
    else:
        stored += [weight("w2", 3, 8, 3, 3)]
        scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
        if sizes:
            scales = numpy_helper.from_array(np.array([1, 8, *size], np.int64), "sizes")
        stored += [scales]
        how = ["r", "", "", "sizes"] if sizes else ["r", "", "scales"]
        nodes.append(helper.make_node("Resize", how, ["u"], mode="nearest"))
        nodes.append(helper.make_node("Conv", ["u", "w2"], ["y"], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node(final, ["y"], ["out"]))
    shape = [batch, *size, 3] if channels_last else [batch, 3, *size]
    image = helper.make_tensor_value_info("in", dtype, shape)
    result = helper.make_tensor_value_info("out", dtype, shape)
    inside = helper.make_tensor_value_info("c", TensorProto.FLOAT, [1, 8, 32, 32])
    # weights are inputs too, as old exporters write them
    inputs = [image, helper.make_tensor_value_info("w1", TensorProto.FLOAT, [8, 3, 3, 3])]
    graph = helper.make_graph(nodes, "net", inputs, [result], stored, value_info=[inside])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def save(tmp_path):
    def write(model):
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def write_images(folder, number, *, size=(40, 48), first=0):
    folder.mkdir(exist_ok=True)
    for index in range(first, first + number):
        rng = np.random.default_rng(index)
        levels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{index:03}.png", compress_level=0)
    return folder


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", 12)


def make(model, images, out, **changes):
    given = {"name": "theirs", "pixels": BGR01, "image_size": SIZE} | changes
    return adopt(model, images, out, **given)


def test_a_foreign_generator_becomes_an_export(save, images, tmp_path):
    path = save(generator())
    export = make(path, images, tmp_path / "export")
    spec = export.manifest.model
    assert (spec.name, spec.task, spec.family) == ("theirs", "unknown", "adopted")
    assert (spec.scale, spec.size_multiple, spec.pixels) == (1, 2, BGR01)
    assert export.manifest.teacher is export.manifest.student is None
    assert export.manifest.student_to_teacher is None
    assert set(export.manifest.lineage) == {"model", "images", "student"}
    assert StudentExport.read(export.path) == export

    golden = GoldenPairs.read(export.golden)
    assert golden.source.shape == (4, SIZE, SIZE, 3)
    assert export.calibration().shape == (8, SIZE, SIZE, 3)
    assert golden.teacher is golden.target is None
    assert golden.reference(BGR01)[0] == "float student"
    judged = {one.tobytes() for one in golden.source}
    assert judged.isdisjoint(one.tobytes() for one in export.calibration())


def test_its_golden_images_are_what_the_file_gives_in_its_own_pixels(save, tmp_path, run):
    """Static 64 x 64, blue first, in [0, 1]: as its maker would run it."""
    folder = write_images(tmp_path / "images", 12, size=(64, 64))
    original = generator()
    export = make(save(original), folder, tmp_path / "export", image_size=64)
    golden = GoldenPairs.read(export.golden)
    by_hand = golden.source[..., ::-1].astype(np.float32).transpose(0, 3, 1, 2) / 255
    theirs = run(original, by_hand)
    np.testing.assert_allclose(golden.student, theirs, atol=1e-6)
    wanted = np.rint(theirs.transpose(0, 2, 3, 1)[..., ::-1] * 255)
    assert np.abs(from_model(golden.student, BGR01) - wanted).max() <= 1


def test_the_same_file_and_images_give_the_same_bytes(save, images, tmp_path):
    path = save(generator())
    one, two = (make(path, images, tmp_path / name) for name in ("one", "two"))
    assert {p.name: p.read_bytes() for p in one.path.iterdir()} == {
        p.name: p.read_bytes() for p in two.path.iterdir()
    }


def test_a_model_of_fixed_size_takes_other_sizes(save):
    model = read_foreign(save(generator()))
    (value,) = model.model.graph.input  # and the weights are inputs no longer
    assert [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim] == [
        1,
        3,
        "height",
        "width",
    ]
    assert model.run(np.zeros((1, 3, 32, 48), np.float32)).shape == (1, 3, 32, 48)
    onnx.checker.check_model(model.model, full_check=True)


def test_a_model_that_upscales(save):
    up = read_foreign(save(generator(transposed=False, size=("h", "w"))))
    assert (up.scale, up.size_multiple) == (1, 2)
    doubled = read_foreign(save(generator(size=("h", "w"), stride=1)))
    assert (doubled.scale, doubled.size_multiple) == (2, 1)


@pytest.mark.parametrize(("transposed", "published"), [(True, 4), (False, 1)])
def test_costs_are_counted_in_both_conventions(transposed, published, save):
    model = read_foreign(save(generator(transposed=transposed))).model
    first = 16 * 16 * 8 * 27
    second = 16 * 16 * 8 * 3 * 16 if transposed else 32 * 32 * 3 * 8 * 9
    cost = count(model, 32)
    assert cost.macs == first + second
    assert cost.macs_published == first + published * second
    # the scales of a Resize are stored numbers too
    assert cost.params == 8 * 27 + 8 + (8 * 3 * 16 if transposed else 3 * 8 * 9 + 4)


def test_matrix_products_are_counted():
    stored = [
        numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("a", (4, 5)), ("b", (5, 6)), ("c", (6, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["ab"]),
        helper.make_node("Gemm", ["ab", "c"], ["g"], transA=1, transB=1),
        helper.make_node("ReduceSum", ["g"], ["s"], keepdims=0),
        helper.make_node("Add", ["in", "s"], ["out"]),
    ]
    nodes[1].input[:] = ["ab", "a"]  # (4, 6)' x (4, 5)
    nodes[1].attribute[1].i = 0
    face = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "h", "w"])
        for name in ("in", "out")
    ]
    graph = helper.make_graph(nodes, "products", face[:1], face[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert count(model, 8).macs == 4 * 6 * 5 + 6 * 5 * 4


def test_an_older_operator_set_is_brought_up(save):
    old = generator(opset=11)
    model = read_foreign(save(old))
    assert [entry.version for entry in model.model.opset_import] == [13]


def test_an_operator_set_that_cannot_be_brought_up(save, monkeypatch):
    monkeypatch.setattr(foreign, "OLDEST_OPSET", 99)
    with pytest.raises(ValueError, match=r"opset 17 and cannot be written in 99 .*opset_version=1"):
        read_foreign(save(generator()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels_last": True}, r"channels last; export it channels first.*--inputs-as-nchw"),
        ({"batch": 4}, "fixed to 4 images at once; export it for one"),
        ({"size": (64, "w")}, "fixes one of height and width"),
        ({"dtype": TensorProto.FLOAT16}, "float16, not float: export it in float32"),
        ({"transposed": False, "sizes": True}, "works at 64 x 64 only .*dynamic_axes"),
    ],
)
def test_a_model_that_cannot_be_taken_as_it_is(changes, reason, save):
    path = save(generator(**changes))
    with pytest.raises(ValueError, match=f"{path}.*{reason}"):
        read_foreign(path)


def harm(model, how):
    graph = model.graph
    if how == "external":
        graph.initializer[0].data_location = TensorProto.EXTERNAL
        graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")
    elif how == "domain":
        graph.node[0].domain = "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))
    elif how == "outputs":
        graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    elif how == "grey":
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    elif how == "quantized":
        graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "s"))
        graph.initializer.append(numpy_helper.from_array(np.uint8(0), "z"))
        graph.node.insert(0, helper.make_node("QuantizeLinear", ["in", "s", "z"], ["q"]))
        graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
        graph.node[2].input[0] = "d"
    elif how == "broken":
        graph.node[1].input[0] = "nowhere"
    return model


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("external", "keeps 'w1' in another file; export with external_data=False"),
        ("domain", r"uses operators that are not standard ONNX \(com\.example\)"),
        ("outputs", r"has 2 outputs \('out', 'r'\).*extract_model"),
        ("grey", r"is \(1, 1, 64, 64\), not \(N, 3, H, W\): only colour images"),
        ("quantized", r"is quantized already \(QuantizeLinear\)"),
        ("broken", "is not valid ONNX"),
    ],
)
def test_a_file_that_is_no_float_generator(how, reason, save):
    path = save(harm(generator(), how))
    with pytest.raises(ValueError, match=f"{path}.*{reason}") as error:
        read_foreign(path)
    assert "compress" not in str(error.value)  # its maker has no pocketgan compress to run again


def test_a_file_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        read_foreign(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"model\.onnx is not an ONNX model \(100 bytes\)"):
        read_foreign(tmp_path / "model.onnx")


@pytest.mark.parametrize(("limit", "reason"), [("MAX_BYTES", "bytes"), ("MAX_NODES", "operators")])
def test_a_file_that_is_too_large(limit, reason, save, monkeypatch):
    monkeypatch.setattr(foreign, limit, 2)
    with pytest.raises(ValueError, match=f"has [0-9]+ {reason}, more than 2"):
        read_foreign(save(generator()))


def test_nine_images_are_too_few(save, tmp_path):
    folder = write_images(tmp_path / "images", 9)
    (folder / "notes.txt").write_text("no image")
    write_images(folder, 2, size=(20, 90), first=20)
    (folder / "copy.png").write_bytes((folder / "000.png").read_bytes())
    few = (
        r"has 9 usable images of 12 \(2 smaller than 32 x 32, 1 twice\); at least 10 are needed, "
        "8 to calibrate with and 2 to judge by"
    )
    with pytest.raises(ValueError, match=few):
        make(save(generator()), folder, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_large_folder_is_sampled(save, images, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("deploy.adopt.MOST_CALIBRATION", 8)
    monkeypatch.setattr("deploy.adopt.MOST_GOLDEN", 3)
    with caplog.at_level(logging.WARNING):
        export = make(save(generator()), images, tmp_path / "export")
    assert len(export.calibration()) == 8
    assert len(GoldenPairs.read(export.golden).source) == 3
    assert caplog.messages == []


def test_a_broken_image_is_named(save, images, tmp_path):
    (images / "005.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"005\.png: the image is damaged"):
        make(save(generator()), images, tmp_path / "export")


def test_there_is_no_folder(save, tmp_path):
    with pytest.raises(ValueError, match="there is no folder of images"):
        make(save(generator()), tmp_path / "nothing", tmp_path / "export")


def test_a_size_that_the_model_cannot_take(save, images, tmp_path):
    with pytest.raises(ValueError, match="multiples of 2, and 31 is none"):
        make(save(generator()), images, tmp_path / "export", image_size=31)


def test_a_graph_without_weights_is_no_generator(save, images, tmp_path):
    model = generator()
    del model.graph.node[1:]
    model.graph.node[0].CopyFrom(helper.make_node("Sigmoid", ["in"], ["out"]))
    with pytest.raises(ValueError, match="no convolution with stored weights"):
        make(save(model), images, tmp_path / "export")


def test_values_that_the_range_cannot_mean_are_refused(save, images, tmp_path):
    model = generator()
    model.graph.node.append(helper.make_node("Mul", ["unit", "levels"], ["out"]))
    model.graph.node[-2].output[0] = "unit"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "levels"))
    wrong = r"gives values from .* to .* where black is 0 and white 1: .* say how with --range"
    with pytest.raises(ValueError, match=wrong):
        make(save(model), images, tmp_path / "export")
    export = make(save(model), images, tmp_path / "e", pixels=range_spec(0, 255))
    assert export.manifest.model.pixels.std == (1.0, 1.0, 1.0)


def test_values_that_are_not_numbers_are_refused(save, images, tmp_path):
    model = generator(final="Log")  # of negative numbers
    with pytest.raises(ValueError, match="values that are not finite"):
        make(save(model), images, tmp_path / "export")


def test_a_range_that_is_probably_wrong_is_said(save, images, tmp_path, caplog):
    make(save(generator()), images, tmp_path / "export", pixels=RGB)
    (said,) = caplog.messages
    assert "gives no value below middle grey" in said
    assert (tmp_path / "export" / EXPORT).is_file()


def test_the_model_it_runs_is_the_model_it_writes(save, images, tmp_path, run):
    export = make(save(generator()), images, tmp_path / "export")
    golden = GoldenPairs.read(export.golden)
    again = run(onnx.load(export.model), to_model(golden.source, BGR01))
    np.testing.assert_array_equal(again, golden.student)
