"""Relations among the parts of an image: what CRD distils (Park et al., 2019; Zhang et al., 2022).

A part is a row, a column or a square patch. Two images agree when their parts lie at the same
distances from each other, and under the same angles, whatever the scale.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 4 * 2**20
"""Cosines held at a time, per image; what is larger is computed in pieces, again going back."""

SMALLEST_SQUARE = 1e-12
"""Squared distances are clamped here, so that equal parts give no infinite gradient."""


def row_groups(images: Tensor, units: int) -> Tensor:
    """Rows of images as parts, in interleaved groups of at most ``units``.

    All rows of 256 have 16.7 million angles. In groups (every fourth row together, say) each row
    still takes part in every step, at a sixteenth of the cost.

    Args:
        images: (B, C, H, W).
        units: Most rows that are related with each other.

    Returns:
        (B * groups, H // groups, C * W); the last ``H % groups`` rows are left out.
    """
    b, c, h, w = images.shape
    groups = -(-h // units)
    rows = images[:, :, : h - h % groups].transpose(1, 2)  # (B, H', C, W)
    return rows.reshape(b, -1, groups, c * w).transpose(1, 2).flatten(0, 1)


def column_groups(images: Tensor, units: int) -> Tensor:
    """The same of columns: (B, C, H, W) -> (B * groups, W // groups, C * H)."""
    return row_groups(images.transpose(2, 3), units)


def patches(images: Tensor, size: int) -> Tensor:
    """Squares side by side, each image's own: (B, C, H, W) -> (B, patches, C * size * size)."""
    return F.unfold(images, size, stride=size).transpose(1, 2)


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Distances once, angles twice, as relational distillation weighs them.

    Neither a shift nor a common scale of the student's parts is punished.

    Args:
        student: Parts of the student's images, (B, N, M).
        teacher: The same parts of the teacher's. No gradient flows into it.

    Raises:
        ValueError: Fewer than two parts, or the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"parts must match: {tuple(student.shape)} and {tuple(teacher.shape)}")
    if student.shape[1] < 2:
        raise ValueError(
            f"a relation needs two parts, got {student.shape[1]}: larger images or smaller patches"
        )
    with torch.autocast(student.device.type, enabled=False):
        with torch.no_grad():
            theirs, their_squares = _inner(teacher)
        ours, our_squares = _inner(student)
        distances = F.smooth_l1_loss(_normalised(our_squares), _normalised(their_squares))
        return distances.float() + 2 * _angles(ours, our_squares, theirs, their_squares).float()


def _inner(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of parts around their mean, and squared distances: (B, N, N) each.

    In float64: neighbouring rows are nearly equal, and their distance is a small difference of
    large numbers.
    """
    centred = parts.double()
    centred = centred - centred.mean(1, keepdim=True)
    products = centred @ centred.transpose(1, 2)
    norms = products.diagonal(dim1=1, dim2=2)
    squares = norms[:, :, None] + norms[:, None] - 2 * products
    off_diagonal = ~torch.eye(squares.shape[1], dtype=torch.bool, device=squares.device)
    return products, squares.clamp_min(SMALLEST_SQUARE) * off_diagonal


def _normalised(squares: Tensor) -> Tensor:
    """Distances over their mean, image by image; zero on the diagonal."""
    apart = squares > 0
    distances = torch.where(apart, squares, 1.0).sqrt() * apart
    mean = distances.sum((1, 2)) / apart.sum((1, 2))
    return distances / mean[:, None, None]


def _angles(ours: Tensor, our_squares: Tensor, theirs: Tensor, their_squares: Tensor) -> Tensor:
    """Mean smooth L1 of the cosines of all triplets, a chunk of corners at a time."""
    count = ours.shape[1]
    at_once = max(1, CHUNK_BYTES // (4 * count * count * ours.shape[0]))
    total = ours.new_zeros(())
    for start in range(0, count, at_once):
        chunk = partial(_angle_sum, slice(start, start + at_once))
        arguments = ours, our_squares, theirs, their_squares
        if at_once >= count:
            total = total + chunk(*arguments)
        else:
            total = total + checkpoint(chunk, *arguments, use_reentrant=False)
    return total / (ours.shape[0] * count**3)


def _angle_sum(
    corners: slice, ours: Tensor, our_squares: Tensor, theirs: Tensor, their_squares: Tensor
) -> Tensor:
    with torch.no_grad():
        wanted = _cosines(theirs, their_squares, corners)
    return F.smooth_l1_loss(_cosines(ours, our_squares, corners), wanted, reduction="sum").double()


def _cosines(products: Tensor, squares: Tensor, corners: slice) -> Tensor:
    """Cosines at the given corners i between the ways to j and to k: (B, I, N, N) float32.

    <e_j - e_i, e_k - e_i> is made of inner products alone, so the (N, N, M) differences that the
    released code holds in memory are never made.
    """
    at = products[:, corners]  # (B, I, N): <e_i, e_j>
    norms = products.diagonal(dim1=1, dim2=2)[:, corners]  # (B, I)
    apart = squares[:, corners]  # (B, I, N)
    inverse = torch.where(apart > 0, apart, torch.inf).rsqrt()  # a corner has no angle with itself
    ways = products[:, None] - at[:, :, :, None] - at[:, :, None] + norms[:, :, None, None]
    return (ways * inverse[:, :, :, None] * inverse[:, :, None]).float()
