"""``pocketgan import``: a published file becomes networks of ours and a report."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.checkpoints import save_network
from compress.importing.readers import Source, read
from compress.importing.recognise import (
    Attempt,
    Cleaned,
    clean,
    network_of,
    recognise,
)
from compress.importing.report import ImportedNetwork, ImportReport, Role
from compress.macs import cost
from compress.models.blocks import Spec
from compress.models.discriminators import SharedPatchDiscriminator
from compress.models.families import FAMILIES, Generator
from compress.models.srgan import IMAGE_SIZE as SRGAN_SIZE
from compress.models.srgan import SrganDiscriminator
from deploy.sealing import write_whole
from devices.sealed import digest

FACE = "import.json"

IMAGE_SIZE = 256
"""Of the input that costs are stated for, px: what the papers state them for."""

SMALL_IMAGE_SIZE = 64
"""The same for networks that upscale four times."""


@dataclass(frozen=True)
class Found:
    """A network that was recognised."""

    name: str
    network: nn.Module
    cleaned: Cleaned
    attempt: Attempt

    @property
    def role(self) -> Role:
        """Generators say where to tap them, discriminators do not."""
        return "generator" if isinstance(self.network, Generator) else "discriminator"


class _OneHead(nn.Module):
    """A discriminator with several heads, seen through its first."""

    def __init__(self, network: SharedPatchDiscriminator) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """As the discriminator."""
        scores: Tensor = self.network(images, 0)
        return scores


def run(
    path: Path, out: Path, *, networks: Sequence[str] = (), architecture: str | None = None
) -> ImportReport:
    """Import a file of weights.

    Args:
        path: The file.
        out: Folder to write: ``generator.safetensors`` or ``discriminator.safetensors`` (in a
            folder named after the network, where the file has several of a kind) and
            ``import.json``. One that an import wrote before is replaced.
        networks: Which networks of the file to take; none means every generator, or the one
            network there is.
        architecture: What the user says of the network: a family, a JSON or TOML specification
            (or a part of one), or a file with one.

    Raises:
        ValueError: The file or the network in it is not understood, or not wanted; see `readers`
            and `recognise`.
    """
    said = parse_architecture(architecture) if architecture else {}
    source = read(path)
    said = source.said | said
    found, left_out = choose(source, networks, said, path)
    roles = [one.role for one in found]
    files = [
        f"{one.role}.safetensors"
        if roles.count(one.role) == 1
        else f"{_folder(one.name)}/{one.role}.safetensors"
        for one in found
    ]
    report: ImportReport | None = None

    def fill(folder: Path) -> None:
        nonlocal report
        for one, file in zip(found, files, strict=True):
            save_network(folder / file, one.network)
        report = ImportReport(
            source={one.name: digest(one) for one in source.files},
            format=source.format,
            networks=tuple(
                _describe(one, file, digest(folder / file))
                for one, file in zip(found, files, strict=True)
            ),
            left_out=dict(source.dropped) | left_out,
            notes=source.notes,
            torch=str(torch.__version__),
        )
        (folder / FACE).write_text(report.model_dump_json(indent=2) + "\n")

    write_whole(out, FACE, fill)
    assert report is not None
    return report


def parse_architecture(text: str) -> Spec:
    """Read what a user says of a network.

    Args:
        text: A family's name; JSON or TOML with some or all keys of a specification; or the path
            of a ``.json`` or ``.toml`` file with that.

    Raises:
        ValueError: It is none of these, or names a family that is not known.
    """
    try:
        if text.endswith((".json", ".toml")):
            content = Path(text).read_text(encoding="utf-8")
            spec = json.loads(content) if text.endswith(".json") else tomllib.loads(content)
        elif text.lstrip().startswith("{"):
            spec = json.loads(text)
        elif "=" in text:
            spec = tomllib.loads(text)
        else:
            spec = {"family": text}
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--architecture {text} is not JSON or TOML: {error}") from error
    if not isinstance(spec, dict):
        raise ValueError(f"--architecture {text} is not a table of keys and values")
    family = spec.get("family")
    if family is not None and family not in FAMILIES:
        raise ValueError(
            f"--architecture: unknown network family {family!r}; known: {', '.join(FAMILIES)}"
        )
    return spec


def choose(
    source: Source, wanted: Sequence[str], said: Spec, path: Path
) -> tuple[list[Found], dict[str, str]]:
    """The networks to take, and why the others are not taken.

    Raises:
        ValueError: A wanted network is not there, one is not understood, or none is a generator.
    """
    there = source.networks
    choices = ", ".join(there)
    strange = [name for name in wanted if name not in there]
    if strange and "" in there:
        raise ValueError(f"{path} holds one network; leave --network {strange[0]} out")
    if strange:
        raise ValueError(f"{path} has no network {strange[0]!r}; it has {choices}")
    if wanted or len(there) == 1:
        names = list(dict.fromkeys(wanted)) or list(there)
        found = [_find(name, there[name], source.format, said, path) for name in names]
        return found, {
            name: f"not asked for; take it with --network {name}"
            for name in there
            if name not in names
        }
    return _generators(source, said, path)


def _generators(source: Source, said: Spec, path: Path) -> tuple[list[Found], dict[str, str]]:
    found, left_out = [], {}
    for name, tensors in source.networks.items():
        try:
            one = _find(name, tensors, source.format, said, path)
        except ValueError as error:
            left_out[name] = f"not understood: {error}"
            continue
        if one.role == "generator":
            found.append(one)
        else:
            left_out[name] = f"a discriminator; take it with --network {name}"
    if not found:
        reasons = "\n".join(f"  {name}: {why}" for name, why in left_out.items())
        raise ValueError(
            f"{path} holds several networks, and no generator among them; choose with --network:\n"
            f"{reasons}"
        )
    return found, left_out


def _find(name: str, tensors: Mapping[str, Tensor], format: str, said: Spec, path: Path) -> Found:
    cleaned = clean(dict(tensors))
    try:
        attempt = recognise(cleaned.tensors, format, said)
    except ValueError as error:
        which = f"{path}, network {name}" if name else str(path)
        raise ValueError(f"{which}: {error}") from error
    return Found(name, network_of(attempt), cleaned, attempt)


def _describe(found: Found, file: str, sha256: str) -> ImportedNetwork:
    attempt, original, network = found.attempt, found.cleaned.original, found.network
    assert attempt.spec is not None
    size = _image_size(network)
    countable = _OneHead(network) if isinstance(network, SharedPatchDiscriminator) else network
    counted = cost(countable, size, channels=attempt.spec.get("channels", 3))
    return ImportedNetwork(
        name=found.name,
        role=found.role,
        file=file,
        sha256=sha256,
        layout=attempt.layout.name,
        spec=attempt.spec,
        keys={ours: original[theirs] for ours, theirs in attempt.names.items()},
        filled=dict(attempt.filled),
        dropped=dict(found.cleaned.dropped)
        | {original[name]: why for name, why in attempt.dropped.items()},
        notes=attempt.notes,
        taps=tuple(network.taps) if isinstance(network, Generator) else (),
        params=counted.params,
        macs=counted.macs,
        macs_published=counted.macs_published,
        image_size=size,
    )


def _image_size(network: nn.Module) -> int:
    if isinstance(network, SrganDiscriminator):
        return SRGAN_SIZE
    if isinstance(network, Generator) and network.scale > 1:
        return SMALL_IMAGE_SIZE
    return IMAGE_SIZE


def _folder(name: str) -> str:
    """A network's name as the name of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
