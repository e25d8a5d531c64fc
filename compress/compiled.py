"""``torch.compile`` for generators, without hiding the layers that distillation looks at."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from compress.models.families import Generator

log = logging.getLogger(__name__)

SHAPES = 64
"""Most versions of one module's code: pruned blocks of one class have other widths each."""


@contextlib.contextmanager
def compiled(networks: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Compile the forward passes of generators inside the block; afterwards they are as before.

    What is compiled is the largest modules that no tap is inside of: a tap is a hook, and compiled
    code does not stop at hooks. The first step takes tens of seconds, and results agree with those
    of eager passes to rounding.

    Args:
        networks: Generators; others are compiled as a whole.
        device: Where they are.

    Raises:
        ValueError: There is nothing on this machine to compile with.
    """
    require_compiler(device)
    modules = [m for network in networks for m in _regions(network, _taps(network))]
    if not modules:
        log.warning("compile = true changes nothing: between taps there are single layers only")
    for module in modules:
        forward = torch.compile(module.forward, dynamic=False)
        module.forward = forward
    try:
        with torch._dynamo.config.patch(recompile_limit=SHAPES), warnings.catch_warnings():
            # torch looks at the gradients of what goes into a block, and warns of that itself
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            yield
    finally:
        for module in modules:
            del module.forward  # the class's own shows again


def require_compiler(device: torch.device) -> None:
    """Refuse early, and in words, where ``torch.compile`` would fail late.

    Raises:
        ValueError: What is missing, and how to get it.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ValueError(
                "compile = true needs triton on a GPU: pip install triton, or leave compile out"
            )
        return
    default = "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get("CXX", default)
    if shutil.which(compiler) is None:
        raise ValueError(
            f"compile = true needs a C++ compiler, and there is no {compiler} here: install one "
            "(Debian: apt-get install g++), name yours in the variable CXX, or leave compile out"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise ValueError(
            f"compile = true needs Python's headers, and there is no {headers / 'Python.h'}: "
            "install them (Debian: apt-get install python3-dev), or leave compile out"
        )
    installed = Path(torch.__file__).parent
    if " " in str(installed):
        raise ValueError(
            f"compile = true links against {installed}, and torch does not quote the space in it: "
            "install into an environment at a path without one, or leave compile out"
        )


def _taps(network: nn.Module) -> Sequence[str]:
    return network.taps if isinstance(network, Generator) else ()


def _regions(network: nn.Module, taps: Sequence[str]) -> list[nn.Module]:
    """The largest modules with layers inside of them, none of which is a tap."""
    if not list(network.children()):
        return []
    if not taps and not isinstance(network, nn.ModuleList | nn.ModuleDict):
        return [network]
    regions = []
    for name, child in network.named_children():
        inside = [tap.removeprefix(f"{name}.") for tap in taps if tap.startswith(f"{name}.")]
        regions += _regions(child, inside)
    return list(dict.fromkeys(regions))
