"""Layouts of the image-to-image generators: junyanz, GAN Compression, OMGD, DCD, CRD, GCC."""

from __future__ import annotations

import re

from compress.importing.layout import (
    LAYER,
    Layout,
    Renaming,
    Tensors,
    UnfitError,
    convolutions,
    norm_of,
    out_channels,
    same_names,
    shape,
    substitutions,
)
from compress.models.blocks import Spec, widths_to_json
from compress.models.cartoon import FIRST_BLOCK, CartoonWidths
from compress.models.generators import ResnetWidths
from compress.models.mobile import DeepestWidths
from compress.models.unet import DeepestUnetWidths, UnetWidths

Expansion = tuple[int, int, int]

RESNET_CONVOLUTIONS = 6
"""Outside the blocks: the two ends, two strided, two transposed."""

DEEPEST_CONVOLUTIONS = 10
"""The same, and a plain one behind each that changes the size."""

TRANSPOSED = {RESNET_CONVOLUTIONS: (3, 4), DEEPEST_CONVOLUTIONS: (5, 7)}
"""Which of those state their channels the other way round."""


def rename_blocks(tensors: Tensors, _: Spec) -> Renaming:
    """Number a block's layers as we do: without a place for Dropout in plain blocks, else with.

    A Dropout layer has no tensors, but the layers behind it count one more. junyanz's code has it
    or not, by option; the compression codes always do.
    """
    names = {}
    for key in tensors:
        block = re.fullmatch(rf"(model\.\d+\.conv_block\.)(\d+)((?:\.conv\.\d)?\.{LAYER})", key)
        if block:
            index = int(block[2])
            names[key] = f"{block[1]}{index + _shift(tensors, block[1], index)}{block[3]}"
        elif re.fullmatch(rf"model\.\d+\.{LAYER}", key):
            names[key] = key
    return Renaming(names)


def _shift(tensors: Tensors, block: str, index: int) -> int:
    """What to add to the index of a layer in its block; ``block`` ends in a dot."""
    if f"{block}1.conv.0.weight" in tensors:
        return 1 if index >= 5 and f"{block}5.conv.0.weight" in tensors else 0
    if f"{block}12.weight" in tensors:  # an expansion block, which was only published with Dropout
        return 0
    second = tensors.get(f"{block}6.weight")
    return -1 if index >= 6 and second is not None and second.ndim == 4 else 0


def describe_resnet(tensors: Tensors) -> Spec:
    """Norm and widths of a ResNet with plain blocks."""
    inner = tuple(out_channels(tensors, f"{block}.1") for block in _blocks(tensors))
    return _resnet("resnet", tensors, inner)


def describe_mobile(tensors: Tensors) -> Spec:
    """Norm and widths of a ResNet with separable blocks."""
    inner = tuple(out_channels(tensors, f"{block}.1.conv.2") for block in _blocks(tensors))
    return _resnet("mobile", tensors, inner)


def _resnet(family: str, tensors: Tensors, inner: tuple[int, ...]) -> Spec:
    stem, down, stream, up, head = _ends(tensors, RESNET_CONVOLUTIONS)
    widths = ResnetWidths(stem, down, stream, inner, up, head)
    norm = norm_of(tensors, "model.2")
    return {"family": family, "norm": norm, "widths": widths_to_json(widths)}


def describe_deepest_mobile(tensors: Tensors) -> Spec:
    """Norm and widths of OMGD's deeper ResNet."""
    stem, *pairs = _ends(tensors, DEEPEST_CONVOLUTIONS)
    blocks = _blocks(tensors)
    separable = [block for block in blocks if f"{block}.1.conv.0.weight" in tensors]
    expansions = [_expansion(tensors, block) for block in blocks if block not in separable]
    if len(expansions) != 6:
        raise UnfitError(f"it has {len(expansions)} expansion blocks, not 6")
    outside = expansions[:2] + expansions[4:]
    levels = tuple(
        (entry, *three, leave)
        for entry, leave, three in zip(pairs[::2], pairs[1::2], outside, strict=True)
    )
    inner = tuple(out_channels(tensors, f"{block}.1.conv.2") for block in separable)
    widths = DeepestWidths(stem, levels, inner, tuple(expansions[2:4]))
    norm = norm_of(tensors, "model.2")
    return {"family": "deepest_mobile", "norm": norm, "widths": widths_to_json(widths)}


def _blocks(tensors: Tensors) -> list[str]:
    """``model.N.conv_block`` of every block, in order."""
    matches = (re.match(r"model\.(\d+)\.conv_block\.", key) for key in tensors)
    return [f"model.{n}.conv_block" for n in sorted({int(m[1]) for m in matches if m})]


def _expansion(tensors: Tensors, block: str) -> Expansion:
    wide, middle, narrow = (out_channels(tensors, f"{block}.{index}") for index in (1, 4, 7))
    return wide, middle, narrow


def _ends(tensors: Tensors, wanted: int) -> list[int]:
    """Channels out of the convolutions outside the blocks, but of the last, which makes pixels."""
    indices = convolutions(tensors, "model")
    if len(indices) != wanted:
        raise UnfitError(f"it has {len(indices)} convolutions outside its blocks, not {wanted}")
    sizes = [shape(tensors, f"model.{index}.weight") for index in indices[:-1]]
    return [size[at in TRANSPOSED[wanted]] for at, size in enumerate(sizes)]


def describe_unet(tensors: Tensors) -> Spec:
    """Norm and widths of a U-Net, perhaps without the levels that GCC pruned away."""
    levels, hollow = _levels(tensors, behind=0)
    norm = norm_of(tensors, f"{levels[1]}.model.2")
    widths = _unet_widths(tensors, levels, hollow, behind=0)
    return {"family": "unet", "norm": norm, "widths": widths_to_json(widths)}


def describe_deepest_unet(tensors: Tensors) -> Spec:
    """Norm and widths of OMGD's deeper U-Net."""
    levels, hollow = _levels(tensors, behind=2)
    norm = norm_of(tensors, f"{levels[1]}.model.2")
    down: list[tuple[Expansion, ...]] = []
    up: list[tuple[Expansion, ...]] = []
    for depth, level in enumerate(levels[:-1]):
        first, second = ((1, 2), (4, 5)) if depth == 0 else ((3, 4), (9, 10))
        for side, places in ((down, first), (up, second)):
            blocks = (f"{level}.model.{place}.conv_block" for place in places)
            side.append(tuple(_expansion(tensors, block) for block in blocks))
    plain = _unet_widths(tensors, levels, hollow, behind=2)
    widths = DeepestUnetWidths(plain, tuple(down), tuple(up))
    return {"family": "deepest_unet", "norm": norm, "widths": widths_to_json(widths)}


def _levels(tensors: Tensors, *, behind: int) -> tuple[list[str], bool]:
    """The prefix of each level from the outside in, and whether the innermost is hollow.

    Args:
        tensors: With our names.
        behind: Expansion blocks between a level's convolution and the level inside.
    """
    shape(tensors, "model.model.0.weight")
    levels = ["model"]
    inside = f"model.model.{1 + behind}"
    while any(key.startswith(f"{inside}.model.") for key in tensors):
        levels.append(inside)
        inside = f"{inside}.model.{3 + behind}"
    if len(levels) < 2:
        raise UnfitError(f"it has no {inside}")
    return levels, f"{levels[-1]}.model.{5 + behind}.weight" in tensors


def _unet_widths(tensors: Tensors, levels: list[str], hollow: bool, *, behind: int) -> UnetWidths:
    down = [out_channels(tensors, "model.model.0")]
    up = []
    for level in levels[1:]:
        innermost = level == levels[-1] and not hollow
        widen = 3 if innermost else 5 + behind
        down.append(out_channels(tensors, f"{level}.model.1"))
        up.append(shape(tensors, f"{level}.model.{widen}.weight")[1])
    try:
        return UnetWidths(tuple(down), tuple(up), hollow)
    except ValueError as error:
        raise UnfitError(str(error)) from error


def describe_cartoon(tensors: Tensors) -> Spec:
    """Widths of CartoonGAN's generator."""
    numbers = [int(m[1]) for key in tensors if (m := re.fullmatch(r"conv(\d\d)_1\.weight", key))]
    blocks = sorted(number for number in numbers if number >= FIRST_BLOCK)
    one, two, three, four, five = (
        out_channels(tensors, f"conv0{layer}") for layer in ("1_1", "2_1", "2_2", "3_1", "3_2")
    )
    up, head = (
        (shape(tensors, f"{layer}_1.weight")[1], out_channels(tensors, f"{layer}_2"))
        for layer in ("deconv01", "deconv02")
    )
    inner = tuple(out_channels(tensors, f"conv{block:02}_1") for block in blocks)
    widths = CartoonWidths(one, (two, three), four, five, inner, up, head)
    return {"family": "cartoon", "widths": widths_to_json(widths)}


UNET_NAMES = rf"model(?:\.model\.\d+)+\.(?:conv_block\.\d+\.)?{LAYER}"

LAYOUTS = (
    Layout("resnet", "CycleGAN and pix2pix", rename_blocks, describe_resnet),
    Layout("mobile", "GAN Compression, OMGD and GCC", rename_blocks, describe_mobile),
    Layout("deepest_mobile", "OMGD", rename_blocks, describe_deepest_mobile),
    Layout("unet", "pix2pix and GCC", same_names(UNET_NAMES), describe_unet),
    Layout("deepest_unet", "OMGD", same_names(UNET_NAMES), describe_deepest_unet),
    Layout(
        "cartoon",
        "CartoonGAN",
        substitutions(
            (r"((?:de)?conv\d\d_\d\.(?:weight|bias))", None),
            (r"(in\d\d_\d)\.(weight|bias)", None),
            (r"(in\d\d_\d)\.scale", r"\1.weight"),
            (r"(in\d\d_\d)\.shift", r"\1.bias"),
        ),
        describe_cartoon,
    ),
)
