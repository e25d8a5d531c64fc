"""A stage: what it leaves on disk, that it resumes exactly, and where its networks are."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from compress.loop import Schedule
from compress.samples import Samples
from compress.schema.training import Training
from compress.stage import BOARD, METRICS, SAMPLES, STATE, Options, run_stage
from devices.sealed import digest
from tests.compress.small import batch_at, relay, weights

SCHEDULE = Schedule(6, 1e-2)
IMAGES = tuple(np.full((8, 8, 3), level, dtype=np.uint8) for level in (10, 200))


class KilledError(Exception):
    """Stands in for SIGKILL, which test_pipeline sends."""


class Watcher:
    """A progress that runs something after each step."""

    def __init__(self, after=lambda step: None):
        self.started, self.after = None, after

    def start(self, *told):
        self.started = told

    def step(self, step, losses):
        self.after(step)


def stage(method, out, options, *, after=lambda step: None, samples=None, schedule=SCHEDULE):
    watcher = Watcher(after)
    run_stage(
        "small",
        method,
        batch_at,
        schedule,
        options,
        student=method.networks["student"],
        out=out,
        run="a",
        progress=watcher,
        samples=samples,
    )
    return watcher


def kill(step):
    if step == 3:
        raise KilledError


@pytest.mark.parametrize(
    "options",
    [
        Options(2),
        Options(2, ema=0.5),
        Options(2, ema=0.9, accumulate=2, seed=3),
        Options(2, autocast=True),
        Options(2, channels_last=True, ema=0.5),
    ],
    ids=["plain", "ema", "ema-parts-dropout", "bfloat16", "channels-last"],
)
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path, options):
    def make():
        return relay(nn.BatchNorm2d(4), nn.Dropout(0.3))

    unbroken, first, second = make(), make(), make()
    stage(unbroken, tmp_path / "a", options)
    with pytest.raises(KilledError):
        stage(first, tmp_path / "b", options, after=kill)
    resumed = stage(second, tmp_path / "b", options)
    assert resumed.started == ("small", 6, 2, 4)
    for name, got in weights(second).items():
        assert torch.equal(got, weights(unbroken)[name]), name
    states = [load_file(tmp_path / folder / STATE) for folder in "ab"]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    assert digest(tmp_path / "a" / METRICS) == digest(tmp_path / "b" / METRICS)


def test_the_average_is_what_a_stage_ends_with(tmp_path):
    method = relay()
    student, decay, want = method.networks["student"], 0.8, []

    def average(step):
        now = [p.detach().clone() for p in student.parameters()]
        before = want[-1] if want else now
        want.append([decay * a + (1 - decay) * b for a, b in zip(before, now, strict=True)])

    stage(method, tmp_path, Options(6, ema=decay), after=average)
    for got, mean in zip(student.parameters(), want[-1], strict=True):
        torch.testing.assert_close(got.detach(), mean)
    last = relay()
    stage(last, tmp_path / "last", Options(6))
    assert not torch.equal(weights(last)["student/block.0.0.weight"], student.block[0][0].weight)


def test_a_finished_stage_gives_its_average_again(tmp_path):
    first, again = relay(), relay()
    stage(first, tmp_path, Options(2, ema=0.8))
    watcher = stage(again, tmp_path, Options(2, ema=0.8))
    assert watcher.started == ("small", 6, 6, 0)
    for name, got in weights(again).items():
        assert torch.equal(got, weights(first)[name]), name


def test_channels_last_comes_and_goes(tmp_path):
    method = relay()
    student = method.networks["student"]
    within = []

    def look(step):
        weight = student.block[1][0].weight
        within.append(weight.is_contiguous(memory_format=torch.channels_last))

    stage(method, tmp_path, Options(6, channels_last=True), after=look)
    assert within == [True] * 6
    assert student.block[1][0].weight.is_contiguous()
    plain = relay()
    stage(plain, tmp_path / "plain", Options(6))
    for name, got in weights(method).items():
        torch.testing.assert_close(got, weights(plain)[name], rtol=1e-3, atol=1e-4)


def test_samples_are_drawn_with_each_state(tmp_path):
    method = relay(nn.Dropout(0.5))
    drawn = []

    def look(step):
        path = tmp_path / SAMPLES
        drawn.append(np.asarray(Image.open(path)).copy() if path.is_file() else None)

    samples = Samples(IMAGES, teacher=IMAGES, truth=IMAGES)
    stage(method, tmp_path, Options(2), after=look, samples=samples)
    assert [d is None for d in drawn] == [True, True, False, False, False, False]
    assert np.array_equal(drawn[2], drawn[3])
    assert not np.array_equal(drawn[3], drawn[4])
    assert method.networks["student"].training  # dropout goes on after it was drawn
    assert not list(tmp_path.glob(".*"))
    without = relay(nn.Dropout(0.5))
    stage(without, tmp_path / "without", Options(2))
    for name, got in weights(method).items():
        assert torch.equal(got, weights(without)[name]), name


def test_samples_show_the_average(tmp_path):
    method = relay()
    samples = Samples(IMAGES)
    stage(method, tmp_path, Options(6, ema=0.9), samples=samples)
    want = samples.draw(method.networks["student"])  # which is its average now
    assert np.array_equal(np.asarray(Image.open(tmp_path / SAMPLES)), np.asarray(want))


def test_tensorboard_has_every_loss_and_the_samples(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra pocketgan[tensorboard]",
    )
    options = Options(2, tensorboard=True)
    with pytest.raises(KilledError):
        stage(relay(), tmp_path, options, after=kill, samples=Samples(IMAGES))
    stage(relay(), tmp_path, options, samples=Samples(IMAGES))
    events = reader.EventAccumulator(str(tmp_path / BOARD))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    for name in ("teacher/reconstruction", "student/imitation", "student/size"):
        points = [(e.step, e.value) for e in events.Scalars(name)]
        want = [(row["step"], pytest.approx(row[name], rel=1e-5)) for row in rows]
        assert points == want
    assert [e.step for e in events.Images("samples")] == [2, 4, 6]


def test_tensorboard_that_is_not_installed_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"needs tensorboard: pip install 'pocketgan\[tensorb"):
        stage(relay(), tmp_path, Options(2, tensorboard=True))


def test_the_state_of_another_run_is_not_resumed(tmp_path):
    stage(relay(), tmp_path, Options(6))
    watcher = Watcher()
    method = relay()
    run_stage(
        "other",
        method,
        batch_at,
        SCHEDULE,
        Options(6),
        student=method.networks["student"],
        out=tmp_path,
        run="b",
        progress=watcher,
    )
    assert watcher.started == ("other", 6, 0, 4)


def test_defaults_of_a_recipe_are_those_of_a_stage():
    """What a recipe does not say changes nothing: figures that were published stay."""
    training = Training(
        steps=1, batch_size=1, crop=64, learning_rate=1.0, decay_from=0.5, checkpoint_every=7
    )
    assert training.options(seed=3) == Options(7, seed=3)
    assert training.schedule() == Schedule(1, 1.0, 0.5)


def test_every_option_comes_from_the_recipe():
    training = Training(
        steps=9,
        batch_size=1,
        crop=64,
        learning_rate=1.0,
        decay_from=0.5,
        checkpoint_every=7,
        betas=(0.1, 0.2),
        autocast=True,
        channels_last=True,
        compile=True,
        accumulate=2,
        ema=0.5,
        tensorboard=True,
    )
    assert training.options(seed=3) == Options(
        7,
        seed=3,
        betas=(0.1, 0.2),
        autocast=True,
        channels_last=True,
        compile=True,
        accumulate=2,
        ema=0.5,
        tensorboard=True,
    )
