"""Two processes are one training: this one and a second that it starts, over gloo."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress import distributed
from compress.distributed import average, first_alone, is_first, share, take_from_first
from compress.stage import METRICS, SAMPLES, STATE
from tests.compress.conftest import write_photos
from tests.compress.small import relay, weights
from tests.compress.two_processes import STEPS, stage, work

ROOT = Path(__file__).parents[2]
RECIPE = """
verb = "train"
name = "tiny-teacher"
description = "two steps of pix2pix, nothing of which depends on the rest of a batch"
seed = 1
[data]
kind = "restoration"
train = "{photos}"
test = "{photos}"
[data.damage]
blur_px = [0.5, 1.0]
noise = [5.0, 10.0]
jpeg_quality = [40, 60]
[generator]
family = "resnet"
width = 4
blocks = 2
norm = "instance"
[discriminator]
family = "patchgan"
width = 4
norm = "instance"
[losses]
name = "pix2pix"
adversarial = 1.0
reconstruction = 100.0
mode = "lsgan"
[training]
steps = 2
batch_size = 2
crop = 64
learning_rate = 0.001
decay_from = 0.5
checkpoint_every = 1
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder that two processes worked in: the second one, and this one as the first."""
    folder = tmp_path_factory.mktemp("together")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = (
        "import torch, sys; from pathlib import Path; torch.set_num_threads(1);"
        "from tests.compress.two_processes import work; work(Path(sys.argv[1]))"
    )
    second = subprocess.Popen(
        [sys.executable, "-c", code, folder],
        env=os.environ | shared | {"RANK": "1", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
    )
    first = shared | {"RANK": "0", "LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": ""}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in first.items():
            patch.setenv(name, value)
        patch.setattr(distributed, "PATIENCE", distributed.PATIENCE / 120)
        work(folder)
    assert second.wait(timeout=60) == 0
    return folder


def curve(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "options"), [("plain", {}), ("parts", {"accumulate": 2, "ema": 0.5})]
)
def test_two_processes_train_as_one_with_their_batches_together(together, tmp_path, name, options):
    """The recipe's batch is cut in two: each process sees half of what one would see."""
    alone = relay()
    stage(alone, tmp_path, **options)
    want = curve(tmp_path / METRICS)
    assert len(want) == STEPS
    for got, expected in zip(curve(together / name / METRICS), want, strict=True):
        assert got == pytest.approx(expected, rel=1e-4)
    found = load_file(together / "0.safetensors")
    for key, tensor in weights(alone).items():
        torch.testing.assert_close(found[f"{name}/{key}"], tensor, rtol=1e-3, atol=1e-5)


def test_both_end_with_the_same_bits(together):
    """Also BatchNorm's statistics, which each finds for its own share."""
    first, second = (load_file(together / f"{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert any("running_mean" in key for key in first)
    for key in first.keys() - {"steps"}:
        assert torch.equal(first[key], second[key]), key


def test_the_first_process_alone_shows_progress_and_writes(together):
    assert [int(load_file(together / f"{r}.safetensors")["steps"]) for r in (0, 1)] == [STEPS, 0]
    assert sorted(p.name for p in (together / "plain").iterdir()) == [METRICS, STATE]


def test_alone_nothing_is_exchanged():
    tensors = [torch.ones(2), torch.zeros(3)]
    assert all(a is b for a, b in zip(average(tensors), tensors, strict=True))
    take_from_first(tensors)
    with first_alone():
        assert is_first()
    assert share(6, 2) == [slice(0, 3), slice(3, 6)]


def test_shares_are_even_and_in_order(monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert share(8, 2) == [slice(4, 6), slice(6, 8)]
    with pytest.raises(
        ValueError,
        match="a batch of 6 cannot be shared evenly by 2 processes in 2 parts each: "
        "make batch_size a multiple of 4",
    ):
        share(6, 2)


@pytest.mark.slow
def test_torchrun_trains_a_teacher_as_one_process_does(tmp_path):
    write_photos(tmp_path / "photos", 2)
    (tmp_path / "teacher.toml").write_text(RECIPE.format(photos=tmp_path / "photos"))
    command = ["-m", "deploy.main", "train", tmp_path / "teacher.toml", "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for out, start in (("one", [sys.executable]), ("two", [*torchrun, "2"])):
        run = subprocess.run(
            [*start, *command, tmp_path / out],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        printed = [Path(line).name for line in run.stdout.splitlines()]
        assert printed == ["generator.safetensors", "discriminator.safetensors"]
    one, two = (curve(tmp_path / out / METRICS) for out in ("one", "two"))
    for got, want in zip(two, one, strict=True):
        assert got == pytest.approx(want, rel=1e-3)
    assert (tmp_path / "two" / SAMPLES).is_file()
