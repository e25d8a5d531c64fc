"""Read a file of weights without running anything in it: names and tensors, by network.

What kind of file it is is read from its first bytes, not from its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.importing import keras, ncnn, torch_files
from compress.importing.layout import Tensors
from compress.models.blocks import Spec

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "net", "network")
"""Names that say nothing about which network it is; the first that is there is taken."""

SAFETENSORS_HEADER = 8
"""Bytes before the JSON header of a safetensors file."""


@dataclass(frozen=True)
class Source:
    """What a file holds, before anyone knows what it is.

    Attributes:
        files: The file, and a second one where the format has two.
        format: ``torch``, ``safetensors``, ``ncnn`` or ``keras``.
        networks: Tensors by network; the one key is "" where the file is one network.
        dropped: What is no network's tensor, and why it is not taken.
        notes: What a user should know about the file.
        said: The specification, where the file is one of ours and has it in its header.
    """

    files: tuple[Path, ...]
    format: str
    networks: Mapping[str, Tensors]
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    said: Spec = field(default_factory=dict)


def read(path: Path) -> Source:
    """Read any file of weights that we know.

    Raises:
        ValueError: It is absent, of no known kind, damaged, holds no tensors, or would run code
            when opened; or what reads its kind is not installed. The message says what to do.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".bin" and path.with_suffix(".param").is_file():
        path = path.with_suffix(".param")
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(ncnn.MAGIC):
        tensors, notes = ncnn.read(path)
        return Source((path, path.with_suffix(".bin")), "ncnn", {"": tensors}, notes=notes)
    if start.startswith(keras.MAGIC):
        return Source((path,), "keras", {"": keras.read(path)})
    if torch_files.is_torch_file(path):
        networks, dropped, notes = split(torch_files.read(path), path)
        return Source((path,), "torch", networks, dropped, notes)
    if start[SAFETENSORS_HEADER : SAFETENSORS_HEADER + 1] == b"{":
        tensors, header = _read_safetensors(path)
        said = _specification(header.pop("spec", "{}"))
        notes = tuple(f"its header says {key}: {text}" for key, text in sorted(header.items()))
        return Source((path,), "safetensors", {"": tensors}, notes=notes, said=said)
    raise ValueError(
        f"{path} is no file of weights that can be read here: it is neither a torch file (.pth, "
        f".pt), nor safetensors, an ncnn .param, or Keras .h5; it starts with {start[:8]!r}"
    )


def split(content: Any, path: Path) -> tuple[dict[str, Tensors], dict[str, str], tuple[str, ...]]:
    """Find the networks in what a torch file held: a state_dict, or a dict of such.

    Args:
        content: Mappings, sequences, numbers, texts and tensors.
        path: For messages.

    Raises:
        ValueError: No tensors with names in it.
    """
    dropped: dict[str, str] = {}
    networks = _networks(content, "", dropped)
    if not networks:
        raise ValueError(
            f"{path} holds no tensors with names, but {_what(content)}; save the generator's "
            "state_dict() with torch.save and import that"
        )
    return _unwrap(networks, dropped)


def _networks(content: Any, prefix: str, dropped: dict[str, str]) -> dict[str, Tensors]:
    if not isinstance(content, Mapping):
        return {}
    tensors = {key: v for key, v in content.items() if isinstance(v, Tensor)}
    found: dict[str, Tensors] = {}
    if tensors and all(isinstance(key, str) for key in tensors):
        found[prefix] = tensors
    for key, value in content.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Tensor):
            continue
        inside = _networks(value, name, dropped) if isinstance(key, str) else {}
        found |= inside
        if not inside:
            dropped[name] = f"no tensor, but {_what(value)}"
    return found


def _unwrap(
    networks: dict[str, Tensors], dropped: dict[str, str]
) -> tuple[dict[str, Tensors], dict[str, str], tuple[str, ...]]:
    """Of wrappers around the same network take the best; their names are none."""
    wrapped = [name for name in WRAPPERS if name in networks]
    notes: tuple[str, ...] = ()
    if wrapped and set(wrapped) == set(networks):
        chosen, *others = wrapped
        if others:
            notes = (f"took {chosen!r}, not {', '.join(map(repr, others))}",)
        for other in others:
            dropped[other] = f"the same network as {chosen!r}"
        return {"": networks[chosen]}, dropped, notes
    return networks, dropped, notes


def _what(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Mapping):
        return f"a dict of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _specification(text: str) -> Spec:
    """What our own files say in their header; nothing where that is of another make."""
    try:
        spec = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return spec if isinstance(spec, dict) else {}


def _read_safetensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
            header.pop("format", None)  # "pt": which library wrote it
            return tensors, header
    except SafetensorError as error:
        raise ValueError(f"{path} looks like safetensors but is damaged: {error}") from error
