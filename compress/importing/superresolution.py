"""Layouts of the super-resolution networks: ESRGAN, Real-ESRGAN, SRGAN; torch, ncnn and Keras."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from compress.importing.layout import (
    LAYER,
    Layout,
    Tensors,
    UnfitError,
    convolutions,
    count,
    in_order,
    out_channels,
    same_names,
    shape,
    substitutions,
)
from compress.models.blocks import Spec, widths_to_json
from compress.models.rrdb import RrdbWidths
from compress.models.srgan import EPSILON, IMAGE_SIZE, SrganWidths
from compress.models.srvgg import SrvggWidths

SCALES = {3: 4, 12: 2, 48: 1}
"""Channels an RRDB network takes, and how much it upscales: it folds pixels where it does less."""

TORCH_EPSILON = 1e-5
"""Of torch's batch norms, where nothing else is said."""

RRDB_ENDS = ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
WB = r"(weight|bias)"


def describe_rrdb(tensors: Tensors) -> Spec:
    """Widths and scale of an RRDB network."""
    blocks = count(tensors, r"body\.(\d+)\.")
    growth = [
        tuple(out_channels(tensors, f"body.{block}.rdb{dense}.conv{k}") for k in range(1, 5))
        for block in range(blocks)
        for dense in range(1, 4)
    ]
    stream, channels, *_ = shape(tensors, "conv_first.weight")
    if channels not in SCALES:
        raise UnfitError(f"its first convolution takes {channels} channels; 3, 12 or 48 are known")
    up = out_channels(tensors, "conv_up1"), out_channels(tensors, "conv_up2")
    head = out_channels(tensors, "conv_hr")
    widths = RrdbWidths(stream, tuple(growth), up, head)  # type: ignore[arg-type]
    return {"family": "rrdb", "scale": SCALES[channels], "widths": widths_to_json(widths)}


def _rrdb_stems(match: re.Match[str]) -> Sequence[str]:
    """Layers of an RRDB network in the order they run."""
    blocks = (len(match[0]) - len(RRDB_ENDS) - 1) // 15
    dense = [
        f"body.{block}.rdb{d}.conv{k}"
        for block in range(blocks)
        for d in range(1, 4)
        for k in range(1, 6)
    ]
    return ["conv_first", *dense, *RRDB_ENDS]


def describe_srvgg(tensors: Tensors) -> Spec:
    """Widths and scale of Real-ESRGAN's compact network, the scale from the channels it makes."""
    *body, last = convolutions(tensors, "body") or [-1]
    pixels = out_channels(tensors, f"body.{last}")
    scale = math.isqrt(pixels // 3)
    if 3 * scale**2 != pixels or not body:
        raise UnfitError(f"its last convolution makes {pixels} channels, not 3 times a square")
    widths = SrvggWidths(tuple(out_channels(tensors, f"body.{index}") for index in body))
    return {"family": "srvgg", "scale": scale, "widths": widths_to_json(widths)}


def describe_srgan(tensors: Tensors) -> Spec:
    """Widths of SRGAN's generator."""
    inner = tuple(
        out_channels(tensors, f"residual_blocks.{block}.conv_block1.conv_block.0")
        for block in range(count(tensors, r"residual_blocks\.(\d+)\."))
    )
    ups = count(tensors, r"subpixel_convolutional_blocks\.(\d+)\.")
    up = tuple(
        out_channels(tensors, f"subpixel_convolutional_blocks.{block}.conv") // 4
        for block in range(ups)
    )
    if not up:
        raise UnfitError("it has no subpixel_convolutional_blocks")
    widths = SrganWidths(out_channels(tensors, "conv_block1.conv_block.0"), inner, up)
    return {"family": "srgan", "widths": widths_to_json(widths)}


def describe_srgan_discriminator(tensors: Tensors) -> Spec:
    """Widths of SRGAN's discriminator."""
    width = out_channels(tensors, "conv_blocks.0.conv_block.0")
    hidden = shape(tensors, "fc1.weight", 2)[0]
    return {"family": "srgan_discriminator", "width": width, "hidden": hidden}


def _srgan_stems(match: re.Match[str]) -> Sequence[str]:
    """Layers of the Keras generator in the order of its model."""
    block = (
        *(f"conv_block1.conv_block.{index}" for index in range(3)),
        *(f"conv_block2.conv_block.{index}" for index in range(2)),
    )
    return [
        "conv_block1.conv_block.0",
        "conv_block1.conv_block.1",
        *(f"residual_blocks.{n}.{at}" for n in range(len(match[1]) // 5) for at in block),
        "conv_block2.conv_block.0",
        "conv_block2.conv_block.1",
        *(
            f"subpixel_convolutional_blocks.{n}.{at}"
            for n in range(len(match[2]) // 2)
            for at in ("conv", "prelu")
        ),
        "conv_block3.conv_block.0",
    ]


def _srgan_discriminator_stems(match: re.Match[str]) -> Sequence[str]:
    normed = (f"conv_blocks.{n}.conv_block.{at}" for n in range(1, 8) for at in (0, 1))
    return ["conv_blocks.0.conv_block.0", *normed, "fc1", "fc2"]


def from_depth_to_space(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Order channels before a pixel shuffle as torch does: pixel by pixel within a channel.

    TensorFlow's ``depth_to_space`` has channel by channel within a pixel.
    """
    converted = {}
    for name, tensor in tensors.items():
        if re.fullmatch(rf"subpixel_convolutional_blocks\.\d+\.conv\.{WB}", name):
            by_pixel = tensor.reshape(4, -1, *tensor.shape[1:])
            converted[name] = by_pixel.transpose(0, 1).reshape(tensor.shape)
        else:
            converted[name] = tensor
    return converted, ("channels before each pixel shuffle put into torch's order",)


def from_keras_flatten(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Order the first dense layer's inputs as torch flattens: channels before pixels."""
    weight = tensors["fc1.weight"]
    side = IMAGE_SIZE // 16
    if weight.shape[1] % side**2:
        return tensors, ()
    by_pixel = weight.reshape(len(weight), side, side, -1)
    ordered = by_pixel.permute(0, 3, 1, 2).reshape(weight.shape)
    return tensors | {"fc1.weight": ordered}, ("inputs of fc1 put into torch's order",)


def from_single_slopes(tensors: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """Give every channel the one slope of its PReLU, and mind the other epsilon of that code.

    Our batch norms add `EPSILON` to the variance; a file with one slope a layer comes from code
    that adds torch's. The difference goes into the variance, so the sum is what it was.
    """
    slopes = [name for name, t in tensors.items() if _is_slope(name) and t.numel() == 1]
    if not slopes:
        return tensors, ()
    converted = dict(tensors)
    for name in slopes:
        layer, _, index = name.removesuffix(".weight").rpartition(".")
        # the layer whose channels it rectifies: a norm or a convolution before it, or `conv`
        before = f"{layer}.conv.weight" if index == "prelu" else f"{layer}.0.weight"
        channels = shape(tensors, before)[0] // (4 if index == "prelu" else 1)
        converted[name] = tensors[name].reshape(1).repeat(channels)
    for name, tensor in tensors.items():
        if name.endswith(".running_var"):
            converted[name] = tensor + (TORCH_EPSILON - EPSILON)
    return converted, (
        "one slope a layer became one a channel; variances hold the difference of epsilons",
        "this network sees [0, 1]; one trained on images normalised as for ImageNet (an option of "
        "GCC's code) gives wrong colours, and its tensors cannot tell",
    )


def _is_slope(name: str) -> bool:
    return name.endswith(".prelu.weight") or bool(
        re.fullmatch(r"(?:residual_blocks\.\d+\.)?conv_block1\.conv_block\.[12]\.weight", name)
    )


def _esrgan(first: str, block: str, ends: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """Pairs for a code that has its own names for the same layers."""
    return (
        (rf"{first}\.{WB}", r"conv_first.\1"),
        (rf"{block}\.{WB}", r"body.\1.rdb\2.conv\3.\4"),
        *(
            (rf"{theirs}\.{WB}", rf"{ours}.\1")
            for theirs, ours in zip(ends, RRDB_ENDS, strict=True)
        ),
    )


ESRGAN = _esrgan(
    "conv_first",
    r"RRDB_trunk\.(\d+)\.RDB([123])\.conv([1-5])",
    ("trunk_conv", "upconv1", "upconv2", "HRconv", "conv_last"),
)
OLD_ESRGAN = _esrgan(
    r"model\.0",
    r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0",
    (r"model\.1\.sub\.\d+", r"model\.3", r"model\.6", r"model\.8", r"model\.10"),
)
BASICSR = (
    rf"(?:conv_first|{'|'.join(RRDB_ENDS)})\.{WB}",
    rf"body\.\d+\.rdb[123]\.conv[1-5]\.{WB}",
)
SRGAN = (
    rf"(?:residual_blocks\.\d+\.)?conv_block[123]\.conv_block\.\d\.{LAYER}",
    rf"subpixel_convolutional_blocks\.\d+\.(?:conv|prelu)\.{WB}",
)
SRGAN_DISCRIMINATOR = (rf"conv_blocks\.\d+\.conv_block\.\d\.{LAYER}", rf"fc[12]\.{WB}")

LAYOUTS = (
    Layout("rrdb", "BasicSR and Real-ESRGAN", same_names(*BASICSR), describe_rrdb),
    Layout("rrdb", "ESRGAN", substitutions(*ESRGAN), describe_rrdb),
    Layout("rrdb", "ESRGAN, first release", substitutions(*OLD_ESRGAN), describe_rrdb),
    Layout("rrdb", "ncnn", in_order("C(?:C{15})+C{5}", _rrdb_stems), describe_rrdb, format="ncnn"),
    Layout("srvgg", "Real-ESRGAN", same_names(rf"body\.\d+\.{WB}"), describe_srvgg),
    Layout(
        "srvgg",
        "ncnn",
        in_order("(?:CP)+C", lambda match: [f"body.{n}" for n in range(len(match[0]))]),
        describe_srvgg,
        format="ncnn",
    ),
    Layout("srgan", "GCC and ours", same_names(*SRGAN), describe_srgan, from_single_slopes),
    Layout(
        "srgan",
        "Keras",
        in_order("CP((?:CBPCB)*)CB((?:CP)+)C", _srgan_stems),
        describe_srgan,
        from_depth_to_space,
        format="keras",
    ),
    Layout(
        "srgan_discriminator",
        "ours",
        same_names(*SRGAN_DISCRIMINATOR),
        describe_srgan_discriminator,
    ),
    Layout(
        "srgan_discriminator",
        "Keras",
        in_order("C(?:CB){7}DD", _srgan_discriminator_stems),
        describe_srgan_discriminator,
        from_keras_flatten,
        format="keras",
    ),
)
