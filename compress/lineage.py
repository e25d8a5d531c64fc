"""What a result was made from: digests, versions, and a file that says so beside every run."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from devices.profile import Frozen

PACKAGES = ("torch", "torch-pruning", "onnx", "onnxscript", "numpy", "pillow", "safetensors")


def text_digest(*parts: str) -> str:
    """SHA-256 of some texts, in hex."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def recipe_digest(recipe: Frozen) -> str:
    """Digest of what a recipe says, not of how its file is laid out."""
    return text_digest(recipe.model_dump_json())


def versions() -> dict[str, str]:
    """Versions of what a run is made with."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def write_run(out: Path, recipe: Frozen) -> None:
    """Write ``run.json``: the recipe, the versions and the kind of machine."""
    run = {
        "recipe": json.loads(recipe.model_dump_json()),
        "versions": versions(),
        "architecture": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps(run, indent=2) + "\n")
