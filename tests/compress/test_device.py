import pytest
import torch
from torch import nn

from compress.device import (
    batch_threads,
    choose_device,
    gains_by_channels_last,
    mover,
    placed,
    reproducible,
)
from compress.loop import Schedule
from compress.stage import Options, run_stage
from tests.compress.small import Silent, batch_at, relay


def gpus(monkeypatch, count, local):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv("LOCAL_RANK", str(local))


@pytest.mark.parametrize(
    ("count", "local", "want"), [(0, 0, "cpu"), (0, 3, "cpu"), (1, 0, "cuda:0"), (4, 3, "cuda:3")]
)
def test_each_process_takes_the_gpu_of_its_number(monkeypatch, count, local, want):
    gpus(monkeypatch, count, local)
    assert choose_device() == torch.device(want)


def test_more_processes_than_gpus_say_so(monkeypatch):
    gpus(monkeypatch, 1, 1)
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU left, there are 1"):
        choose_device()


def test_networks_come_back_even_when_training_fails():
    network = nn.Conv2d(3, 4, 3)

    def train():
        with placed([network, network], torch.device("cpu"), channels_last=True):
            assert network.weight.is_contiguous(memory_format=torch.channels_last)
            raise RuntimeError("on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        train()
    assert network.weight.is_contiguous()


def test_instance_norm_is_left_contiguous():
    per_image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4))
    per_batch = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert not gains_by_channels_last(per_image)
    assert gains_by_channels_last(per_batch)
    with placed([per_image], torch.device("cpu"), channels_last=True) as images:
        assert not images
    with placed([per_image, per_batch], torch.device("cpu"), channels_last=True) as images:
        assert images
        assert per_image[0].weight.is_contiguous()
        assert not per_batch[0].weight.is_contiguous()


def test_images_move_in_the_format_that_is_asked_for():
    images = torch.rand(2, 3, 4, 4)
    assert mover(torch.device("cpu"))(images) is images
    moved = mover(torch.device("cpu"), channels_last=True)(images)
    assert moved.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved, images)


def test_the_cpu_computes_reproducibly_and_is_left_as_it_was():
    before = torch.are_deterministic_algorithms_enabled()
    with reproducible(torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.gpu
def test_a_gpu_trains_what_the_cpu_resumes(tmp_path):
    """States do not say where they were written."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")

    def stage(steps):
        method, progress = relay(nn.BatchNorm2d(4)), Silent()
        student = method.networks["student"]
        options = Options(2, autocast=True, channels_last=True, ema=0.5)
        run_stage(
            "small",
            method,
            batch_at,
            Schedule(steps, 1e-2),
            options,
            student=student,
            out=tmp_path,
            run="a",
            progress=progress,
        )
        assert {p.device.type for p in student.parameters()} == {"cpu"}
        return progress

    assert stage(4).steps == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert stage(6).started == ("small", 6, 4)


def test_threads_prepare_batches_only_beside_a_gpu(monkeypatch):
    gpus(monkeypatch, 0, 0)
    assert batch_threads() == 0
    gpus(monkeypatch, 1, 0)
    assert batch_threads() > 0
