"""Layouts of the discriminators: PatchGAN, PixelGAN, OMGD's with two heads, GCC's with gates."""

from __future__ import annotations

import re

import torch

from compress.importing.layout import (
    LAYER,
    Layout,
    Renaming,
    Tensors,
    UnfitError,
    convolutions,
    norm_of,
    same_names,
    shape,
)
from compress.models.blocks import Spec
from compress.models.discriminators import SHARED_BLOCKS

GATED = (0, 3, 7, 11, 15)
"""Where GCC's discriminator has its convolutions."""

BRANCH = re.compile(rf"block([1-5])s\.(\d)\.(block\.\d\.{LAYER})")


def describe_patchgan(tensors: Tensors) -> Spec:
    """Norm, channels, width and depth of a PatchGAN."""
    width, channels, *kernel = shape(tensors, "model.0.weight")
    if kernel != [4, 4]:
        raise UnfitError(f"its first convolution is {kernel[0]} x {kernel[1]}, not 4 x 4")
    return {
        "family": "patchgan",
        "norm": norm_of(tensors, "model.3"),
        "channels": channels,
        "width": width,
        "layers": len(convolutions(tensors, "model")) - 2,
    }


def describe_pixelgan(tensors: Tensors) -> Spec:
    """Norm, channels and width of a PixelGAN."""
    width, channels, *_ = shape(tensors, "net.0.weight")
    norm = norm_of(tensors, "net.3")
    return {"family": "pixelgan", "norm": norm, "channels": channels, "width": width}


def describe_gated(tensors: Tensors) -> Spec:
    """Norm, channels and width of GCC's discriminator; its threshold is no tensor: 0.5."""
    width, channels, *_ = shape(tensors, "model.0.weight")
    shape(tensors, "model.2.alpha", 1)
    return {
        "family": "gated_patchgan",
        "norm": norm_of(tensors, f"model.{GATED[1] + 1}"),
        "channels": channels,
        "width": width,
        "threshold": 0.5,
    }


def rename_branches(tensors: Tensors, said: Spec) -> Renaming:
    """Take a shared block once; OMGD's files hold every block for both heads.

    Which blocks are shared is an option of that code. A block whose two copies are equal is
    shared; where the unused copy differs, only the user can tell.
    """
    matches = {key: match for key in tensors if (match := BRANCH.fullmatch(key))}
    branches: dict[int, set[int]] = {}
    for match in matches.values():
        branches.setdefault(int(match[1]), set()).add(int(match[2]))
    told = said.get("shared")
    shared = told if isinstance(told, int) else _shared(tensors, branches)
    names, dropped = {}, {}
    for key, match in matches.items():
        block, branch = int(match[1]), int(match[2])
        if block > shared:
            names[key] = key
        elif branch == max(branches[block]):  # the copy that OMGD's code runs
            names[key] = f"block{block}s.0.{match[3]}"
        else:
            dropped[key] = "the copy of a shared block that is never run"
    return Renaming(names, dropped)


def _shared(tensors: Tensors, branches: dict[int, set[int]]) -> int:
    """How many of the first blocks have one branch, or branches that are equal."""
    for block in range(1, SHARED_BLOCKS + 1):
        heads = sorted(branches.get(block, ()))
        copies = [
            {key.split(".", 2)[2]: t for key, t in tensors.items() if key.startswith(prefix)}
            for prefix in (f"block{block}s.{head}." for head in heads)
        ]
        first, *others = copies or [{}]
        for other in others:
            if first.keys() != other.keys() or not all(
                torch.equal(first[name], other[name]) for name in first
            ):
                return block - 1
    return SHARED_BLOCKS


def describe_shared(tensors: Tensors) -> Spec:
    """Norm, channels, width, shared blocks and heads of OMGD's discriminator."""
    width, channels, *_ = shape(tensors, "block1s.0.block.0.weight")
    heads = [
        len({match[2] for key in tensors if (match := BRANCH.fullmatch(key)) and match[1] == n})
        for n in "12345"
    ]
    return {
        "family": "shared_patchgan",
        "norm": norm_of(tensors, "block2s.0.block.1"),
        "channels": channels,
        "width": width,
        "shared": next((n for n, several in enumerate(heads) if several > 1), SHARED_BLOCKS),
        "heads": max(*heads, 1),
    }


LAYOUTS = (
    Layout(
        "patchgan", "pix2pix and CycleGAN", same_names(rf"model\.\d+\.{LAYER}"), describe_patchgan
    ),
    Layout("pixelgan", "pix2pix", same_names(rf"net\.\d\.{LAYER}"), describe_pixelgan),
    Layout("gated_patchgan", "GCC", same_names(rf"model\.\d+\.(?:alpha|{LAYER})"), describe_gated),
    Layout("shared_patchgan", "OMGD", rename_branches, describe_shared),
)
