import pytest
import torch
import torch.nn.functional as F

from compress import relations
from compress.relations import column_groups, patches, relation_loss, row_groups


def as_written(student, teacher):
    """The paper's formula with every difference in memory, for one image of few parts."""

    def distances(e):
        d = torch.cdist(e, e)
        return d / d[d > 0].mean()

    def cosines(e):
        ways = F.normalize(e[None] - e[:, None], dim=2)
        return torch.bmm(ways, ways.transpose(1, 2))

    return F.smooth_l1_loss(distances(student), distances(teacher)) + 2 * F.smooth_l1_loss(
        cosines(student), cosines(teacher)
    )


def parts(seed, count=12, width=20):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("chunk", [2**30, 4096])
def test_it_is_the_formula_of_the_paper_however_it_is_cut(monkeypatch, chunk):
    monkeypatch.setattr(relations, "CHUNK_BYTES", chunk)
    student, teacher = parts(1).requires_grad_(), parts(2)
    wanted = as_written(student, teacher)
    got = relation_loss(student[None], teacher[None])
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
    ours, theirs = torch.autograd.grad(got, student)[0], torch.autograd.grad(wanted, student)[0]
    assert torch.allclose(ours, theirs, atol=1e-7)


def test_a_copy_has_no_loss_and_neither_has_a_shifted_and_scaled_one():
    student = parts(3)[None]
    assert float(relation_loss(student, student)) == pytest.approx(0.0, abs=1e-9)
    assert float(relation_loss(3 * student + 0.5, student)) == pytest.approx(0.0, abs=1e-9)


def test_equal_parts_give_no_infinite_gradient():
    flat = torch.zeros(1, 8, 6).requires_grad_()
    loss = relation_loss(flat, parts(4, 8, 6)[None].float())
    (gradient,) = torch.autograd.grad(loss, flat)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_no_gradient_reaches_the_teacher():
    student, teacher = parts(5)[None].requires_grad_(), parts(6)[None].requires_grad_()
    assert torch.autograd.grad(relation_loss(student, teacher), teacher, allow_unused=True) == (
        None,
    )


def test_one_part_has_no_relation():
    with pytest.raises(ValueError, match="a relation needs two parts, got 1"):
        relation_loss(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="parts must match"):
        relation_loss(torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))


def test_rows_go_into_interleaved_groups_of_their_own_image():
    images = torch.arange(2 * 10).view(2, 1, 10, 1).float().expand(2, 3, 10, 4)
    groups = row_groups(images, units=4)  # ten rows in groups of at most four: three groups of 3
    assert groups.shape == (6, 3, 12)
    assert groups[0, :, 0].tolist() == [0, 3, 6]
    assert groups[2, :, 0].tolist() == [2, 5, 8]
    assert groups[3, :, 0].tolist() == [10, 13, 16]
    assert torch.equal(column_groups(images.transpose(2, 3), 4), groups)


def test_patches_are_those_of_one_image():
    images = torch.rand(2, 3, 8, 8)
    squares = patches(images, 4)
    assert squares.shape == (2, 4, 48)
    assert torch.equal(squares[1, 3], images[1, :, 4:, 4:].flatten())
