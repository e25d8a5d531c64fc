"""A generator that did not come from ``compress``: checked, made dynamic, tried and counted."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, version_converter

from deploy import graph
from devices.session import Images

MAX_BYTES = 512 * 2**20
MAX_NODES = 10_000
OLDEST_OPSET = 13
"""The oldest in which weights can be quantized channel by channel."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TRIED_SIDE = 64
"""Smallest side that sizes are tried at, in pixels."""
TOLERANCE = 1e-4
"""How far a rewritten model may be from the file, as a share of the largest value."""
DYNAMIC = (
    "export it with dynamic height and width "
    "(torch.onnx.export(..., dynamic_axes={'input': {2: 'height', 3: 'width'}}))"
)

Run = Callable[[Images], Images]


@dataclass(frozen=True)
class Foreign:
    """A model in the form that the rest of the room knows, and what trying it has shown.

    Attributes:
        model: One image in, (1, 3, H, W), one out; height and width dynamic.
        run: The model on this CPU, in float.
        scale: Output height over input height.
        size_multiple: Input height and width must be multiples of this.
    """

    model: onnx.ModelProto
    run: Run
    scale: int
    size_multiple: int


@dataclass(frozen=True)
class Cost:
    """What one image costs, by the rules of ``compress.macs``.

    Attributes:
        params: Stored floating-point numbers, but for single ones.
        macs: Multiply-accumulates that are really done.
        macs_published: The same with transposed convolutions charged at their output resolution.
    """

    params: int
    macs: int
    macs_published: int


def read_foreign(path: Path) -> Foreign:
    """Read one ONNX file and try what it takes.

    Nothing but ``path`` is opened. A model of fixed size is made dynamic where that changes nothing
    at its own size and other sizes work.

    Raises:
        ValueError: It is not a generator that can be deployed; the message names the file and says
            what to export.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give one .onnx file, or a student export")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {MAX_BYTES}: compress it first")
    try:
        original: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except Exception as error:  # protobuf has a class for it, but no types
        raise ValueError(f"{path} is not an ONNX model ({size} bytes)") from error
    fixed = _check_face(path, original)
    model = _load_checked(path, _dynamic(original))
    counts = graph.operators(model)
    if counts.total() > MAX_NODES:
        raise ValueError(f"{path} has {counts.total()} operators, more than {MAX_NODES}")
    for name in ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"):
        if name in counts:
            raise ValueError(f"{path} is quantized already ({name}); give the float model")
    model = _modern(path, model)
    run = runner(path, model)
    if fixed is not None:
        _same(path, runner(path, original), run, fixed)
    scale, multiple = _sizes(path, run, fixed)
    return Foreign(model, run, scale, multiple)


def runner(path: Path, model: onnx.ModelProto) -> Run:
    """The model on this CPU; a run raises what ONNX Runtime raises.

    Raises:
        ValueError: ONNX Runtime cannot load it; the message names ``path``.
    """
    try:
        session = _session(model)
    except Exception as error:  # one class per error code, with no base of their own
        raise ValueError(f"{path}: ONNX Runtime cannot load it ({_line(error)})") from error
    name = graph.input_name(model)

    def run(images: Images) -> Images:
        (output,) = session.run(None, {name: images})
        return np.asarray(output, dtype=np.float32)

    return run


def count(model: onnx.ModelProto, image_size: int) -> Cost:
    """What an image of this size costs.

    The shapes are those of a real run: inferring them fails where a graph computes them.
    """
    counted = [node for node in model.graph.node if node.op_type in COUNTED]
    names = dict.fromkeys(name for n in counted for name in (*n.input[:2], n.output[0]))
    asking = onnx.ModelProto()
    asking.CopyFrom(model)
    for name in names:
        asking.graph.node.append(helper.make_node("Shape", [name], [f"{name}/shape"]))
        asking.graph.output.append(
            helper.make_tensor_value_info(f"{name}/shape", TensorProto.INT64, [None])
        )
    image = np.zeros((1, 3, image_size, image_size), dtype=np.float32)
    wanted = [f"{name}/shape" for name in names]
    answers = _session(asking).run(wanted, {graph.input_name(model): image}) if wanted else []
    shapes = {name: [int(n) for n in a] for name, a in zip(names, answers, strict=True)}
    macs = published = 0
    for node in counted:
        ours, theirs = _macs(node, *(shapes[n] for n in (*node.input[:2], node.output[0])))
        macs, published = macs + ours, published + theirs
    stored = [*model.graph.initializer]
    stored += [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    params = sum(math.prod(t.dims) for t in stored if t.dims and t.data_type in floats)
    return Cost(params, macs, published)


def _check_face(path: Path, model: onnx.ModelProto) -> tuple[int, int] | None:
    """Check input and output; height and width where the file fixes them, else None."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    for kind, values in (("input", inputs), ("output", list(model.graph.output))):
        if len(values) != 1:
            names = ", ".join(repr(value.name) for value in values) or "none"
            raise ValueError(
                f"{path} has {len(values)} {kind}s ({names}); a generator has one image in and one "
                "out: cut it with onnx.utils.extract_model(file, new_file, [input], [output])"
            )
        _check_value(path, kind, values[0])
    height, width = (dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim[2:])
    if bool(height) != bool(width):
        raise ValueError(f"{path} fixes one of height and width and not the other; {DYNAMIC}")
    return (height, width) if height else None


def _check_value(path: Path, kind: str, value: onnx.ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    dims = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    shown = f"{path}: {kind} {value.name!r} is ({', '.join(str(dim) for dim in dims)})"
    if tensor.elem_type != TensorProto.FLOAT:
        dtype = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ValueError(f"{shown} {dtype}, not float: export it in float32")
    if kind == "output" and not dims:
        return  # exporters may leave an output's shape out; trying shows it
    if len(dims) == 4 and dims[3] == 3 and dims[1] != 3:
        raise ValueError(
            f"{shown}, channels last; export it channels first, as (N, 3, H, W) "
            "(tf2onnx has --inputs-as-nchw and --outputs-as-nchw for it)"
        )
    # what an output's shape leaves open, trying shows
    known = len(dims) == 4 and (dims[1] == 3 or (kind == "output" and isinstance(dims[1], str)))
    if not known:
        raise ValueError(f"{shown}, not (N, 3, H, W): only colour images can be translated")
    if isinstance(dims[0], int) and dims[0] != 1:
        raise ValueError(f"{shown}, fixed to {dims[0]} images at once; export it for one")


def _dynamic(original: onnx.ModelProto) -> onnx.ModelProto:
    """The model with height and width open, and nothing said of the sizes inside."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    del model.graph.value_info[:]
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    # weights that are listed as inputs could be given anew with each run: no runtime folds them
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for values, names in ((inputs, ("height", "width")), (model.graph.output, ("out_h", "out_w"))):
        value = helper.make_tensor_value_info(values[0].name, TensorProto.FLOAT, [1, 3, *names])
        (model.graph.input if values is inputs else model.graph.output)[0].CopyFrom(value)
    return model


def _load_checked(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """What `deploy.graph.load_checked` says of the model, in words that name the user's file."""
    with tempfile.TemporaryDirectory(prefix="pocketgan-") as scratch:
        copy = Path(scratch) / "model.onnx"
        copy.write_bytes(model.SerializeToString(deterministic=True))
        try:
            return graph.load_checked(copy)
        except ValueError as error:
            said = str(error).replace(str(copy), str(path)).removesuffix(f"; {graph.AGAIN}")
            raise ValueError(said) from error


def _modern(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an operator set that can be quantized."""
    current = graph.opset(model)
    if current >= OLDEST_OPSET:
        return model
    try:
        newer: onnx.ModelProto = version_converter.convert_version(model, OLDEST_OPSET)
        onnx.checker.check_model(newer)
    except Exception as error:  # the converter raises many kinds
        raise ValueError(
            f"{path} is ONNX opset {current} and cannot be written in {OLDEST_OPSET} "
            f"({_line(error)}); export it with opset_version=17"
        ) from error
    side = MULTIPLES[-1]
    _same(path, runner(path, model), runner(path, newer), (side, side))
    return newer


def _same(path: Path, before: Run, after: Run, size: tuple[int, int]) -> None:
    """Check that a rewritten model gives what the file gives."""
    noise = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    try:
        expected, got = before(noise), after(noise)
    except Exception as error:  # one class per error code, with no base of their own
        raise ValueError(
            f"{path} does not run at {size[0]} x {size[1]} ({_line(error)}); {DYNAMIC}"
        ) from error
    # values that are not finite are no business of a rewrite
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=1.0))
    bound = TOLERANCE * largest
    if got.shape != expected.shape or not np.allclose(
        got, expected, rtol=0, atol=bound, equal_nan=True
    ):
        raise ValueError(f"{path} gives other images once it is rewritten; {DYNAMIC}")


def _sizes(path: Path, run: Run, fixed: tuple[int, int] | None) -> tuple[int, int]:
    """Scale, and the smallest multiple that sizes must have."""
    reason = ""
    for multiple in MULTIPLES:
        # odd numbers of it, so that no larger power of two fits as well
        times = -(-TRIED_SIDE // multiple) // 2 * 2 + 1
        height, width = multiple * times, multiple * (times + 2)
        try:
            shape = run(np.zeros((1, 3, height, width), dtype=np.float32)).shape
        except Exception as error:  # one class per error code, with no base of their own
            reason = _line(error)
            continue
        scale = shape[2] // height if len(shape) == 4 else 0
        if scale and shape == (1, 3, height * scale, width * scale):
            return scale, multiple
        reason = f"{width} x {height} becomes {' x '.join(str(n) for n in shape)}"
    only = f"at {fixed[1]} x {fixed[0]} only" if fixed else "at no size that was tried"
    raise ValueError(f"{path} works {only} ({reason}); {DYNAMIC}")


def _macs(
    node: onnx.NodeProto, first: list[int], second: list[int], out: list[int]
) -> tuple[int, int]:
    """Multiply-accumulates of one node, true and published; shapes of its tensors."""
    if node.op_type == "ConvTranspose":
        per_pixel = math.prod(second)
        return per_pixel * math.prod(first[2:]), per_pixel * math.prod(out[2:])
    if node.op_type == "Conv":
        done = math.prod(out) * math.prod(second[1:])
    else:
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        done = math.prod(out) * first[-2 if turned else -1]
    return done, done


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # sizes that do not fit are tried on purpose
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
