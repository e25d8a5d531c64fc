"""Keys and signatures, the half that holds a secret; checking is ``devices.signature``."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.artifacts import Bundle
from devices.sealed import MANIFEST, SIGNATURE
from devices.signature import MAX_BYTES, PUBLIC_SUFFIX, Signature, key_id, message


def generate(path: Path) -> tuple[Path, str]:
    """Make a key: the private one at ``path`` for its owner's eyes, the public one beside it.

    Args:
        path: The private key's file (PKCS #8, PEM, not encrypted). Its folder must exist.

    Returns:
        Path of the public key (``path`` + ``.pub``), and the key's id.

    Raises:
        ValueError: One of the files is there already: a key that is lost cannot be made again.
        OSError: One of them could not be written.
    """
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    for taken in (path, public):
        if taken.exists() or taken.is_symlink():
            raise ValueError(f"{taken} exists and is not overwritten; choose another --out")
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _create(path, secret, 0o600)
    shown = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _create(public, shown, 0o644)
    return public, key_id(key.public_key())


def sign(folder: Path, key_file: Path) -> Signature:
    """Sign a bundle, after checking that it is whole; an older signature is replaced.

    Raises:
        BundleError: Not a bundle, or damaged: nobody should vouch for that.
        ValueError: The key is none, or others may read it.
        OSError: The signature could not be written; an older one is as it was.
    """
    key = read_private(key_file)
    bundle = Bundle.read(folder)
    signature = Signature(
        key_id=key_id(key.public_key()), signature=key.sign(message(bundle.digest)).hex()
    )
    _replace(folder / f"{MANIFEST}{SIGNATURE}", signature.text())
    return signature


def read_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        ValueError: There is none, it is not an unencrypted Ed25519 key in PEM, or its permissions
            let others read it.
    """
    if not path.is_file():
        raise ValueError(f"there is no private key {path}; pocketgan keygen makes one")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(
            f"{path} can be used by others (mode {mode:04o}), so its signatures vouch for nobody; "
            f"chmod 600 {path}, or make another with pocketgan keygen if it was shared"
        )
    wrong = f"{path} is not an Ed25519 private key in PEM, as pocketgan keygen writes"
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{wrong}: it has more than {MAX_BYTES} bytes")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except TypeError as error:  # what an encrypted key raises
        raise ValueError(f"{wrong}: it is encrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(wrong) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{wrong}: it is for another algorithm")
    return key


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write a file that was not there, with its mode from the first byte on."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
