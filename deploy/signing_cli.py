"""``pocketgan keygen | sign | verify``: light at import, the work is in the room's other files."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    """Declare what a verb takes."""
    if name == "keygen":
        parser.add_argument(
            "--out", type=Path, required=True, help="file of the private key; .pub goes beside it"
        )
        return
    parser.add_argument("bundle", type=Path, help="folder of pocketgan deploy")
    if name == "sign":
        parser.add_argument("--key", type=Path, required=True, help="private key of keygen")
        return
    parser.add_argument(
        "--key",
        type=Path,
        help="public key, or a folder of them, one of which must have signed it "
        "(POCKETGAN_TRUSTED_KEYS)",
    )


def run(name: str, args: argparse.Namespace) -> int:
    """Run a verb; return its exit status.

    Raises:
        ValueError, OSError: What a user can mend.
    """
    if name == "keygen":
        return _keygen(args.out)
    if name == "sign":
        return _sign(args.bundle, args.key)
    return _verify(args.bundle, args.key)


def _keygen(path: Path) -> int:
    from deploy.signing import generate
    from devices.signature import TRUSTED

    public, name = generate(path)
    print(f"key {name}")
    print(f"{path} signs: keep it secret, keep a copy, put it on no board")
    print(f"{public} verifies: copy it to every board, and set {TRUSTED} to it there")
    return 0


def _sign(bundle: Path, key: Path) -> int:
    from deploy.signing import sign
    from devices.sealed import MANIFEST, SIGNATURE

    signature = sign(bundle, key)
    print(f"{bundle / (MANIFEST + SIGNATURE)}: signed by key {signature.key_id}")
    return 0


def _verify(folder: Path, key: Path | None) -> int:
    from deploy.artifacts import Bundle
    from deploy.manifests import content_digest
    from devices.sealed import BundleError, no_strangers
    from devices.signature import configured, read_signature

    trusted = configured(key, os.environ)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give a bundle of pocketgan deploy")
    try:
        bundle = Bundle.read(folder, trusted)
        no_strangers(folder, bundle.manifest.sha256)
        signature = read_signature(folder)
        content = bundle.manifest.content_sha256
        if content and content != content_digest(bundle.manifest):
            raise BundleError(f"{folder}: the manifest's content_sha256 is not that of its content")
    except BundleError as error:
        print(f"does not verify: {error}")
        return 1
    print(f"manifest   {bundle.digest}: as sealed")
    print(f"files      {len(bundle.manifest.sha256)} as the manifest says, and no other")
    if signature is None:
        print("signature  none")
    elif trusted is None:
        print(f"signature  of key {signature.key_id}, NOT CHECKED: give its public key with --key")
    else:
        print(f"signature  of key {signature.key_id}, which is in {trusted.source}")
    return 0
