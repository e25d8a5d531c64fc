"""Weights on disk: safetensors whose header says what network they belong to.

Two kinds of file: a *network* (weights and the specification to rebuild it) and a *state*
(everything a training needs to go on as if it had never stopped).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from compress.loop import Method
from compress.models.families import build, specification

__all__ = ["build", "load_network", "load_state", "save_network", "save_state", "specification"]


def save_network(path: Path, network: nn.Module, *, half: bool = False) -> None:
    """Write a network's weights and specification, whole or not at all.

    Args:
        path: A ``.safetensors`` file.
        network: A generator or discriminator of a known family.
        half: Store floating-point weights as float16.
    """
    tensors = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    _save(path, tensors, {"spec": json.dumps(specification(network), sort_keys=True)})


def load_network(path: Path) -> nn.Module:
    """Read a network: built from the specification in the file's header, in float32.

    Raises:
        ValueError: The file is absent, not safetensors, without a specification, or its tensors
            do not fit what it says it is.
    """
    tensors, header = _load(path)
    if "spec" not in header:
        raise ValueError(f"{path} does not say which network it holds (no 'spec' in its header)")
    network = build(json.loads(header["spec"]))
    floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    try:
        network.load_state_dict(floats, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the network it says it holds: {error}") from error
    return network


def save_state(
    path: Path,
    method: Method,
    optimizers: Mapping[str, torch.optim.Optimizer],
    *,
    step: int,
    run: str,
) -> None:
    """Write everything a training needs to go on, whole or not at all.

    Args:
        path: A ``.safetensors`` file.
        method: Whose networks are saved.
        optimizers: Their state is saved too.
        step: Steps done.
        run: Identifies the run; a state of another run is never resumed.
    """
    tensors: dict[str, Tensor] = {}
    for name, network in method.networks.items():
        for key, tensor in network.state_dict().items():
            tensors[f"network/{name}/{key}"] = tensor
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer/{name}/{index}/{key}"] = torch.as_tensor(value)
    # the same file wherever it is trained; the CPU is where it is read
    tensors = {key: tensor.cpu() for key, tensor in tensors.items()}
    _save(path, tensors, {"step": str(step), "run": run})


def load_state(
    path: Path,
    method: Method,
    optimizers: Mapping[str, torch.optim.Optimizer],
    *,
    run: str,
) -> int:
    """Put a saved state back; return the steps done, 0 where there is none to resume."""
    if not path.is_file():
        return 0
    tensors, header = _load(path)
    if header.get("run") != run:
        return 0
    for name, network in method.networks.items():
        prefix = f"network/{name}/"
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    for name, optimizer in optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{name}/"):
                index, field = key.removeprefix(f"optimizer/{name}/").split("/")
                parameter = parameters[int(index)]
                if value.shape == parameter.shape:
                    value = torch.empty_like(parameter).copy_(value)  # its device and strides
                state.setdefault(int(index), {})[field] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(header["step"])


def _save(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, part, header)
        part.chmod(0o644)  # safetensors makes files that only their owner can read
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"there is no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
