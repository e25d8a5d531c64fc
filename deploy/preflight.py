"""Can this student run on that device? Asked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from deploy import graph
from deploy.dla import LAST_TENSORRT, WITHOUT_DLA, dla_findings
from deploy.findings import Finding
from deploy.memory import build_mib, memory_findings
from deploy.passes.rewrites import REWRITES, covers, kinds, without
from deploy.passes.shapes import pin_shape
from devices.profile import DeviceProfile, TensorRt, require_allowed

REMEDIES = {
    "InstanceNormalization": "train a student with batch norm, which folds into convolutions",
    "ConvTranspose": "use a student family that upsamples by Resize and a convolution",
    "Pad": "use a student family that pads inside its convolutions",
    "Resize": "use a student family that upsamples by transposed convolutions",
    "DepthToSpace": "use a student family that upsamples by transposed convolutions",
    "Tanh": "end the student in Clip",
}
"""What to do about an operator that a device lacks."""
REMEDY = "choose another student family or another device"

OPSETS = (((7, 1), 11), ((8, 2), 13), ((8, 5), 17), ((9, 2), 19), ((10, 15), 24))
"""The newest opset from a TensorRT on (issue 1346 of TensorRT, operators.md of onnx-tensorrt)."""

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Checked:
    """A student that can run on a device.

    Attributes:
        model: The student, in an opset that the device reads, without what it cannot run.
        findings: What a person should know all the same; none of them blocking.
        summary: Opset, operators and memory, in one line.
    """

    model: onnx.ModelProto
    findings: tuple[Finding, ...]
    summary: str

    @property
    def said(self) -> str:
        """The summary, then each finding on a line of its own."""
        return "\n".join([self.summary, *(str(finding) for finding in self.findings)])


def preflight(
    model: onnx.ModelProto, profile: DeviceProfile, *, free_mib: float | None = None
) -> Checked:
    """Check a student against a profile.

    Args:
        model: The student.
        profile: The device.
        free_mib: Memory free on the device, or None where this machine is not it.

    Raises:
        ValueError: The profile is refused; or the device lacks an operator that there is no way
            around, reads no such opset, or has too little memory: all that is wrong, at once.
    """
    require_allowed(profile)
    model, findings = _operators(model, profile)
    newest, why = _newest_opset(profile)
    before = graph.opset(model)
    try:
        model = graph.at_opset(model, newest)
    except ValueError as error:
        reason, _, remedy = str(error).rpartition("; ")
        findings.append(Finding(f"opset {before}", 1, reason, remedy, blocking=True))
    else:
        if why and graph.opset(model) < before:
            remedy = f"the student is written in opset {newest}"
            findings.append(Finding(f"opset {before}", 1, why, remedy))
    findings += _precisions(model, profile)
    findings += _channels(model, profile.channel_multiple)
    dla = profile.tensorrt is not None and profile.tensorrt.use_dla
    if dla or "QNNExecutionProvider" in profile.execution_providers:
        model, pinned = _fixed_size(model, profile.image_size, "a DLA" if dla else "QNN")
        findings += pinned
    if dla and profile.tensorrt is not None:
        findings += _accelerator(model, profile.tensorrt)
    findings += memory_findings(model, profile, free_mib)
    blocking = "; and ".join(str(finding) for finding in findings if finding.blocking)
    if blocking:
        raise ValueError(f"{profile.name} cannot run {blocking}")
    return Checked(model, tuple(findings), _summary(model, profile, free_mib))


def _operators(
    model: onnx.ModelProto, profile: DeviceProfile
) -> tuple[onnx.ModelProto, list[Finding]]:
    """The student without what the device lacks, as far as there is a way around it."""
    had = kinds(model)
    lacks = {*profile.unsupported_operators}
    if profile.tensorrt is not None and profile.tensorrt.use_dla:
        lacks.add("ConvTranspose(padded)")  # a DLA takes it with a crop behind it instead
    lacking = [name for name in had if covers(lacks, name)]
    model, applied = without(model, lacks)
    has = kinds(model)
    findings = []
    for name in lacking:
        why = f"{profile.name} has no such operator"
        if has[name]:
            remedy = REMEDIES.get(name.partition("(")[0], REMEDY)
            findings.append(Finding(name, has[name], why, remedy, blocking=True))
        else:
            findings.append(Finding(name, had[name], why, f"rewritten: {', '.join(applied)}"))
    for name, count in has.items():
        if covers(profile.slow_operators, name):
            entry = name if name in profile.slow_operators else name.partition("(")[0]
            around = REWRITES.get(entry)
            remedy = f"tried beside it: {around.name}" if around else "measured as it is"
            findings.append(Finding(name, count, f"slow on {profile.name}", remedy))
    return model, findings


def _newest_opset(profile: DeviceProfile) -> tuple[int, str]:
    """The opset to write, and why, where it is not the profile's own."""
    if profile.tensorrt is None:
        return profile.opset, ""
    known = [opset for since, opset in OPSETS if since <= profile.tensorrt.number]
    newest = known[-1] if known else OPSETS[0][1]
    if profile.opset <= newest:
        return profile.opset, ""
    return newest, f"TensorRT {profile.tensorrt.version} reads opset {newest} at most"


def _precisions(model: onnx.ModelProto, profile: DeviceProfile) -> Iterator[Finding]:
    """What a student loses, or cannot have, in the precisions that will be built."""
    counts = graph.operators(model)
    quantized = counts["QuantizeLinear"] or counts["DequantizeLinear"]
    if quantized and "int8" not in profile.precisions:
        yield Finding(
            "QuantizeLinear",
            quantized,
            f"the student is INT8 already, and {profile.name} computes in "
            f"{', '.join(profile.precisions)}",
            "give the float model",
            blocking=True,
        )
    norms = counts["InstanceNormalization"]
    if norms and profile.tensorrt is not None and "fp16" in profile.precisions:
        yield Finding(
            "InstanceNormalization",
            norms,
            "it is most of the error of an fp16 network in TensorRT",
            "kept in fp32, between casts",
        )


def _channels(model: onnx.ModelProto, multiple: int) -> Iterator[Finding]:
    """Layers whose width wastes lanes. The last ones are as wide as an image, which is no fault."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    inner: set[str] = set()  # values that a later convolution reads, at some remove
    odd: dict[str, list[int]] = {}
    for node in reversed(model.graph.node):
        layer = node.op_type in CONVOLUTIONS
        if layer and inner.intersection(node.output):
            width = _width(node, stored, makers)
            if width is not None and width % multiple:
                odd.setdefault(str(node.op_type), []).append(width)
        if layer or inner.intersection(node.output):
            inner.update(node.input)
    for name, widths in odd.items():
        shown = ", ".join(str(width) for width in sorted({*widths}))
        yield Finding(
            name,
            len(widths),
            f"slow: {shown} channels, and kernels work in blocks of {multiple}",
            f"compress for this device, which prunes to multiples of {multiple}",
        )


def _width(
    node: onnx.NodeProto,
    stored: dict[str, onnx.TensorProto],
    makers: dict[str, onnx.NodeProto],
) -> int | None:
    """Output channels of a convolution, also of one whose weight is dequantized."""
    name = node.input[1]
    if name in makers and makers[name].op_type == "DequantizeLinear":
        name = makers[name].input[0]
    weight = stored.get(name)
    if weight is None:
        return None
    if node.op_type == "Conv":
        return int(weight.dims[0])
    groups = next((int(one.i) for one in node.attribute if one.name == "group"), 1)
    return int(weight.dims[1]) * groups


def _accelerator(model: onnx.ModelProto, tensorrt: TensorRt) -> Iterator[Finding]:
    """What a DLA build meets."""
    if tensorrt.number >= WITHOUT_DLA:
        yield Finding(
            "a DLA",
            1,
            f"TensorRT {tensorrt.version} supports none",
            "set use_dla = false in the profile",
            blocking=True,
        )
        return
    if tensorrt.number[:2] > LAST_TENSORRT:
        last = ".".join(str(part) for part in LAST_TENSORRT)
        yield Finding(
            "a DLA",
            1,
            f"NVIDIA names TensorRT {last} as the last that supports one, and this is "
            f"{tensorrt.version}",
            "set use_dla = false in the profile if the build fails",
        )
    yield Finding("fp32", 1, "a DLA computes in FP16 and INT8", "that engine runs on the GPU")
    yield from dla_findings(model)


def _fixed_size(
    model: onnx.ModelProto, image_size: int, what: str
) -> tuple[onnx.ModelProto, list[Finding]]:
    """The student for images of one size, where ``what`` compiles no other."""
    image = next(value for value in model.graph.input if value.name == graph.input_name(model))
    free = sum(not dim.dim_value for dim in image.type.tensor_type.shape.dim)
    if not free:
        return model, []
    pinned = pin_shape(model, image_size, image_size)
    remedy = f"pinned: the engine takes images of {image_size} x {image_size} and no others"
    return pinned, [Finding("dynamic dims", free, f"{what} compiles fixed sizes only", remedy)]


def _summary(model: onnx.ModelProto, profile: DeviceProfile, free_mib: float | None) -> str:
    counts = graph.operators(model)
    size = f"{profile.image_size} x {profile.image_size}"
    needed = graph.memory_mib(model, profile.image_size)
    said = (
        f"opset {graph.opset(model)}, {counts.total()} operators of {len(counts)} kinds, "
        f"at least {needed:.0f} of {profile.memory_mib} MiB at {size}"
    )
    build = build_mib(model, profile)
    if build is not None:
        said += f", up to {build:.0f} MiB more while an engine is built"
    if free_mib is not None:
        said += f", {free_mib:.0f} MiB free now"
    return said
