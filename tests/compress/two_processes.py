"""What each of two processes does in test_distributed; it imports little, to start quickly."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import nn

from compress import distributed
from compress.distributed import first_alone, is_first, joined
from compress.loop import Schedule
from compress.stage import Options, run_stage
from tests.compress.small import Silent, batch_at, relay, weights

STEPS = 4


def stage(method, out, **options):
    progress = Silent()
    run_stage(
        "small",
        method,
        batch_at,
        Schedule(STEPS, 1e-2),
        Options(2, **options),
        student=method.networks["student"],
        out=out,
        run="a",
        progress=progress,
    )
    return progress


def work(folder):
    """What each of the processes does; ``folder`` is where it leaves its weights."""
    with joined():
        assert distributed.processes() == 2
        torch.manual_seed(7 + distributed.rank())
        plain, parts = relay(), relay()
        learning = relay(nn.BatchNorm2d(4))
        if not is_first():
            # what a process starts with does not count
            with torch.no_grad():
                plain.networks["student"].block[0][0].weight.add_(1.0)
        steps = stage(plain, folder / "plain").steps
        stage(parts, folder / "parts", accumulate=2, ema=0.5)
        stage(learning, folder / "statistics")
        with first_alone():
            if is_first():
                (folder / "alone").touch()
            assert (folder / "alone").is_file()
        found = {
            f"{name}/{key}": tensor
            for name, method in (("plain", plain), ("parts", parts), ("statistics", learning))
            for key, tensor in weights(method).items()
        }
        found["steps"] = torch.tensor(steps)
        save_file(found, folder / f"{distributed.rank()}.safetensors")
