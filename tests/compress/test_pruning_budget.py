import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from compress.checkpoints import load_network
from compress.loop import Batch
from compress.macs import cost
from compress.models.generators import ResnetWidths
from compress.models.unet import UnetGenerator, UnetWidths
from compress.pruning.budget import latency_budget, macs_budget, params_budget, plan
from compress.pruning.importance import magnitude, make_ranking
from compress.pruning.latency import measured_here
from compress.pruning.prune import prune, prune_to_budget, renewed
from compress.pruning.recipe import budget_of, narrowed, ranking_of, widths_of
from compress.pruning.structure import structure, without
from compress.recipe import CompressRecipe, load_recipe
from compress.schema.pruning import DEFAULT_BATCHES, Pruning
from devices.profile import load_profile
from tests.compress.conftest import tiny_discriminator, tiny_generator
from tests.compress.pruned import image, network

RESTORE = "f51b839b9060ff2d0ff0b9162a778e1025534df9e3c534213a132b9a074b7202"
"""Of the student that version 0.1 pruned for the recipe `restore`."""


def halved(net, **options):
    return prune_to_budget(
        net,
        macs_budget(net, options.pop("reduction", 3.0), image_size=64),
        channel_multiple=options.pop("multiple", 4),
        ranking=options.pop("ranking", magnitude),
        **options,
    )


def test_the_teacher_stays_as_it_was():
    teacher = tiny_generator(16, blocks=6)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    halved(teacher)
    assert teacher.widths == ResnetWidths.uniform(16, 6)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_weights_are_inherited_and_the_strongest_channels_stay():
    teacher = tiny_generator(16, blocks=6)
    with torch.no_grad():
        teacher.model[1].weight[::2] *= 100  # even channels of the stem matter most
        teacher.model[4].weight[:, ::2] *= 100
    kept = halved(teacher).model[1].weight
    assert len(kept) < 16
    strong = teacher.model[1].weight[::2]
    assert all(any(torch.equal(channel, other) for other in strong) for channel in kept)


def test_the_blocks_can_meet_the_budget_alone():
    widths = halved(tiny_generator(16, blocks=6), outer_share=0.25).widths
    assert (widths.stem, widths.down, widths.stream, widths.up, widths.head) == (12, 24, 48, 24, 12)
    assert set(widths.inner) == {max(widths.inner)}
    assert max(widths.inner) < 48


def test_the_recipe_restore_gives_the_student_it_always_gave():
    recipe, _ = load_recipe("restore", CompressRecipe)
    assert recipe.pruning is not None
    root = Path(__file__).parents[2]
    teacher = load_network(root / "examples" / "weights" / "restore_generator.safetensors")
    student = prune_to_budget(
        teacher,
        macs_budget(teacher, recipe.pruning.macs_reduction, image_size=recipe.image_size),
        channel_multiple=load_profile("cpu").channel_multiple,
        ranking=make_ranking(recipe.pruning.importance),
        outer_share=recipe.pruning.outer_share,
    )
    seen = hashlib.sha256()
    for key, value in student.state_dict().items():
        seen.update(key.encode())
        seen.update(repr(tuple(value.shape)).encode())
        seen.update(value.contiguous().numpy().tobytes())
    assert student.widths == ResnetWidths(16, 32, 64, (16,) * 9, 32, 16)
    assert seen.hexdigest() == RESTORE


@pytest.mark.parametrize("reduction", [2.0, 4.0, 5.0, 6.0])
def test_what_one_step_of_rounding_took_too_much_comes_back(reduction):
    # most levels of a U-Net are equally wide, and all together they step from 3.2 to 5.9
    teacher = UnetGenerator(UnetWidths.uniform(32, levels=6))
    budget = macs_budget(teacher, reduction, image_size=64)
    (widths,) = plan(teacher, budget, channel_multiple=8)
    whole = structure(teacher)
    gone = [range(widths[c.name], c.channels) for c in whole.couplings]
    reached = budget.reached(without(teacher, whole, gone))
    assert reduction <= reached <= 1.1 * reduction
    assert all(left % 8 == 0 for left in widths.values())


def test_parameters_can_be_the_budget():
    teacher = network("rrdb")
    budget = params_budget(teacher, 2.5)
    student = prune_to_budget(teacher, budget, channel_multiple=2, ranking=magnitude)
    assert 2.5 <= cost(teacher, 64).params / cost(student, 64).params < 4


def test_a_latency_can_be_the_budget_and_is_measured_once_for_the_same_widths():
    asked = []

    def slow(net):
        asked.append(net.spec["widths"]["stream"])
        return net.spec["widths"]["stream"] / 2

    teacher = tiny_generator(16, blocks=2)
    (widths,) = plan(teacher, latency_budget(13.0, slow), channel_multiple=8)
    student = prune(teacher, widths, magnitude)
    assert student.widths.stream == 24
    assert len(asked) == len(set(asked)) < 7


def test_rounds_end_where_one_round_does_and_share_the_work():
    teacher = tiny_generator(32, blocks=2)
    budget = macs_budget(teacher, 5.0, image_size=64)
    (once,) = plan(teacher, budget, channel_multiple=4, outer_share=0.5)
    rounds = plan(teacher, budget, channel_multiple=4, outer_share=0.5, rounds=3)
    assert rounds[-1] == once
    chain = [structure(teacher).widths, *rounds]
    for before, after in itertools.pairwise(chain):
        assert all(before[name] >= after[name] for name in after)
        assert all(after[name] % 4 == 0 for name in after)
    reached = [budget.reached(prune(teacher, widths, magnitude)) for widths in rounds]
    steps = [b / a for a, b in zip([1.0, *reached], reached, strict=False)]
    assert max(steps) < 1.6 * min(steps)


def test_every_round_ranks_what_the_last_one_left():
    seen = []

    def ranking(net, whole):
        seen.append(net.widths.stream)
        return magnitude(net, whole)

    halved(tiny_generator(16, blocks=2), rounds=3, ranking=ranking)
    assert len(seen) == 3
    assert seen[0] == 64 > seen[1] > seen[2]


def test_channels_that_are_all_wanted_stay_in_place():
    teacher = network("mobile")
    same = prune(teacher, structure(teacher).widths, magnitude)
    assert torch.equal(same(image()), teacher(image()))


def test_fresh_weights_keep_only_the_widths():
    teacher = tiny_generator(16, blocks=2)
    inherited = halved(teacher)
    torch.manual_seed(3)
    fresh = halved(teacher, weights="initialize")
    assert fresh.widths == inherited.widths
    assert not torch.equal(fresh.model[1].weight, inherited.model[1].weight)
    torch.manual_seed(3)
    assert torch.equal(renewed(inherited).model[1].weight, fresh.model[1].weight)


def test_a_network_narrower_than_the_multiple_keeps_its_channels():
    student = halved(tiny_generator(4, blocks=2), reduction=1.25, multiple=8)
    assert student.widths.stem == 4
    assert student.widths.stream == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 500}, r"macs_reduction 500 is out of reach: 4 channels in every layer give"),
        ({"reduction": 9, "outer_share": 0.0}, r"4 channels in the residual blocks give \d\.\d"),
    ],
)
def test_a_budget_out_of_reach_says_what_is(options, message):
    with pytest.raises(ValueError, match=message):
        halved(tiny_generator(16, blocks=2), **options)


def test_a_share_outside_the_blocks_needs_blocks():
    with pytest.raises(ValueError, match=r"outer_share = 0\.5 .* UnetGenerator has none"):
        halved(network("unet"), outer_share=0.5)


def test_widths_of_another_network_are_refused():
    teacher = tiny_generator(16, blocks=2)
    with pytest.raises(ValueError, match="these widths are not ResnetGenerator's"):
        prune(teacher, structure(network("srvgg")).widths, magnitude)
    with pytest.raises(ValueError, match=r"makes no layer wider: \{'model\.1': 17\}"):
        prune(teacher, structure(teacher).widths | {"model.1": 17}, magnitude)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give one of macs_reduction, params_reduction, latency_ms, got none"),
        (
            {"macs_reduction": 2.0, "latency_ms": 3.0},
            "got macs_reduction and latency_ms",
        ),
        ({"macs_reduction": 2.0, "importance": None}, "say which channels go first"),
        ({"macs_reduction": 2.0, "weights": "initialize"}, "leave importance and rounds out"),
        (
            {"macs_reduction": 2.0, "weights": "initialize", "importance": None, "rounds": 2},
            "leave importance and rounds out",
        ),
        ({"macs_reduction": 2.0, "batches": 4}, "importance is 'magnitude': leave batches out"),
    ],
)
def test_a_recipe_that_says_too_much_or_too_little_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Pruning(**{"importance": "magnitude"} | options)


def test_what_a_recipe_says_can_be_read_again():
    for options in (
        Pruning(params_reduction=2.0, importance="taylor", batches=3, rounds=2),
        Pruning(macs_reduction=2.0, weights="initialize"),
    ):
        assert Pruning.model_validate_json(options.model_dump_json()) == options


def test_widths_are_kept_for_a_run_that_is_killed(tmp_path, cpu, monkeypatch):
    times = iter((40.0, 1.0, 40.0, 1.0))
    monkeypatch.setattr(
        "compress.pruning.recipe.measured_here",
        lambda teacher, profile: lambda student: student.widths.stream / next(times, 1.0),
    )
    monkeypatch.setattr("platform.machine", lambda: cpu.architecture)
    teacher = tiny_generator(16, blocks=2)
    options = Pruning(latency_ms=20.0, importance="magnitude", rounds=2)
    kept = tmp_path / "run" / "widths.json"

    def ask(run):
        return widths_of(options, teacher, cpu, image_size=64, kept=kept, run=run)

    first = ask("a")
    assert ask("a") == first
    assert json.loads(kept.read_text()) == {"run": "a", "found": list(first)}
    assert ask("b") != first


def test_a_latency_is_measured_on_the_device(cpu):
    board = load_profile("raspberrypi5")
    with pytest.raises(ValueError, match=r"raspberrypi5 is aarch64: compress on the board"):
        budget_of(
            Pruning(latency_ms=5.0, importance="magnitude"),
            tiny_generator(),
            board.model_copy(update={"architecture": "aarch64"})
            if board.architecture != "aarch64"
            else board,
            image_size=64,
        )


def test_an_untrained_discriminator_is_not_asked():
    options = Pruning(macs_reduction=2.0, importance="discriminator")
    with pytest.raises(ValueError, match="gives none that is trained: give its file, or take tayl"):
        ranking_of(
            options, lambda step: None, tiny_discriminator(), fresh_discriminator=True, seed=0
        )


def test_a_recipe_becomes_a_student(cpu):
    teacher = tiny_generator(16, blocks=2)
    asked = []

    def batch_at(step):
        asked.append(step)
        return Batch(image(32, seed=step))

    for options, seen in (
        (Pruning(macs_reduction=2.0, importance="discriminator", batches=2), [1, 2]),
        (Pruning(params_reduction=2.0, importance="taylor"), list(range(1, DEFAULT_BATCHES + 1))),
        (Pruning(macs_reduction=2.0, weights="initialize"), []),
    ):
        ranking = ranking_of(
            options, batch_at, tiny_discriminator(), fresh_discriminator=False, seed=0
        )
        assert asked == seen
        asked.clear()
        (widths,) = plan(
            teacher, budget_of(options, teacher, cpu, image_size=64), channel_multiple=4
        )
        student = narrowed(options, teacher, widths, ranking)
        assert structure(student).widths == widths
        kept = student.model[1].weight
        inherited = any(torch.equal(kept[0], channel) for channel in teacher.model[1].weight)
        assert inherited == (options.weights == "inherit")


@pytest.mark.slow
def test_a_narrow_network_is_faster_here(cpu):
    profile = cpu.model_copy(update={"image_size": 96, "threads": 1})
    teacher = tiny_generator(32, blocks=2)
    latency = measured_here(teacher, profile)
    narrow = halved(teacher, reduction=10.0)
    assert latency(narrow) < 0.6 * latency(teacher)
