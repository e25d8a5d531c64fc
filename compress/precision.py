"""A method in bfloat16: the same networks and losses, cheaper convolutions."""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.loop import Method


def in_bfloat16(method: Method, device: torch.device) -> Method:
    """The same method with convolutions in bfloat16; weights, gradients and losses stay float32.

    Every pass casts the weights anew: a cast that outlived an update would show the student the
    discriminator as it was before.

    Raises:
        ValueError: The GPU has no bfloat16.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"autocast = true needs bfloat16, which {torch.cuda.get_device_name(device)} lacks: "
            "leave autocast out"
        )
    cast = torch.autocast(device.type, torch.bfloat16)
    return replace(
        method,
        forward=cast(method.forward),
        updates=[replace(u, objective=cast(u.objective)) for u in method.updates],
    )
