"""Who made a bundle: an Ed25519 signature beside its manifest, checked before anything is loaded.

The signature covers the digest of ``manifest.json``, which holds the digest of every other file, so
one signature vouches for them all, measured figures included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field, ValidationError

from devices.profile import Frozen, explain
from devices.sealed import MANIFEST, SIGNATURE, BundleError, digest

TRUSTED = "POCKETGAN_TRUSTED_KEYS"
"""Environment variable: where the public keys are whose bundles are accepted."""
PUBLIC_SUFFIX = ".pub"
MAX_BYTES = 4096
"""Of a key or a signature file."""
DOMAIN = b"pocketgan bundle manifest v1\n"
"""Before what is signed, so that no signature made for something else fits a bundle."""


class Signature(Frozen):
    """``manifest.json.sig``.

    Attributes:
        key_id: Of the key that signed, see `key_id`.
        signature: 64 bytes in hex.
    """

    algorithm: Literal["ed25519"] = "ed25519"
    key_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    def text(self) -> str:
        """The one way to write it down."""
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys whose signature is accepted.

    Attributes:
        keys: By their id.
        source: The file or folder they were read from.
    """

    keys: Mapping[str, Ed25519PublicKey]
    source: Path

    def verify(self, folder: Path) -> str:
        """Check that one of these keys signed a bundle's manifest as it is; give the key's id.

        Whether the other files are those that the manifest names is checked by whoever reads it.

        Raises:
            BundleError: There is no signature, it is of another key, or it does not fit.
        """
        signature = read_signature(folder)
        if signature is None:
            raise BundleError(
                f"{folder} is not signed, and only bundles signed by a key of {self.source} are "
                "accepted; sign it with pocketgan sign"
            )
        key = self.keys.get(signature.key_id)
        if key is None:
            raise BundleError(
                f"{folder} is signed by key {signature.key_id}, which is not in {self.source} "
                f"({', '.join(sorted(self.keys))})"
            )
        face = folder / MANIFEST
        if not face.is_file():
            raise BundleError(f"{face} is missing: {folder} is not a complete bundle or export")
        try:
            key.verify(bytes.fromhex(signature.signature), message(digest(face)))
        except InvalidSignature as error:
            raise BundleError(
                f"{face} is not what key {signature.key_id} signed: it was changed or made again "
                "since; get the bundle from who signed it, or sign this one with pocketgan sign"
            ) from error
        return signature.key_id


def message(manifest_sha256: str) -> bytes:
    """What is signed: the digest of a manifest, in hex, behind `DOMAIN`."""
    return DOMAIN + manifest_sha256.encode()


def key_id(key: Ed25519PublicKey) -> str:
    """What a key is called: the first 16 hex digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def read_trusted(path: Path) -> TrustedKeys:
    """Read public keys: one file, or every ``*.pub`` of a folder.

    Raises:
        ValueError: Nothing is there, or something that is not an Ed25519 public key in PEM.
    """
    files = sorted(path.glob(f"*{PUBLIC_SUFFIX}")) if path.is_dir() else [path]
    keys = [_public_key(file) for file in files]
    if not keys:
        raise ValueError(
            f"{path} holds no public key (*{PUBLIC_SUFFIX}), so no bundle could be trusted; "
            "pocketgan keygen makes one"
        )
    return TrustedKeys({key_id(key): key for key in keys}, path)


def configured(path: Path | None, environ: Mapping[str, str]) -> TrustedKeys | None:
    """The keys at ``path``, else those that the environment names, else None: any bundle will do.

    Raises:
        ValueError: As `read_trusted`. A variable that is set to nothing is one that somebody meant
            to set, so it names no key and is an error too.
    """
    given = str(path) if path is not None else environ.get(TRUSTED)
    if given == "":
        raise ValueError(f"{TRUSTED} is empty: it names no public key; unset it, or set a path")
    return None if given is None else read_trusted(Path(given))


def read_signature(folder: Path) -> Signature | None:
    """The signature beside a bundle's manifest, unchecked, or None where there is none.

    Raises:
        BundleError: The file is not a signature as `Signature.text` writes it.
    """
    path = folder / f"{MANIFEST}{SIGNATURE}"
    if not path.exists() and not path.is_symlink():
        return None
    wrong = f"{path} is not a signature of pocketgan sign"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise BundleError(f"{wrong}: a link, a folder or more than {MAX_BYTES} bytes")
    data = path.read_bytes()
    try:
        signature = Signature.model_validate_json(data)
    except ValidationError as error:
        raise BundleError(f"{wrong}: {explain(error, Signature)}") from error
    if data != signature.text().encode():
        raise BundleError(f"{wrong}: it is written otherwise than pocketgan sign does")
    return signature


def _public_key(path: Path) -> Ed25519PublicKey:
    if not path.is_file():
        raise ValueError(f"there is no public key {path}; pocketgan keygen makes one")
    wrong = f"{path} is not an Ed25519 public key in PEM, as pocketgan keygen writes"
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{wrong}: it has more than {MAX_BYTES} bytes")
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(wrong) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{wrong}: it is for another algorithm")
    return key
