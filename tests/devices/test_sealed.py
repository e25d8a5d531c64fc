import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from devices.sealed import (
    MANIFEST,
    MAX_FACE_BYTES,
    BundleError,
    digest,
    read_sealed,
    seal_text,
)
from devices.signature import Signature, key_id, message, read_trusted

FILES = ("engine.onnx", "golden.npz", MANIFEST, f"{MANIFEST}.sha256")


def test_a_good_bundle_reads(make_bundle):
    sealed = read_sealed(make_bundle())
    assert (sealed.engine_file, sealed.backend, sealed.compiled) == (
        "engine.onnx",
        "onnxruntime",
        True,
    )


def test_the_bundle_of_these_tests_has_no_other_file(make_bundle):
    assert {path.name for path in make_bundle().iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0, -1])
def test_one_flipped_bit_is_noticed(make_bundle, name, where):
    bundle = make_bundle()
    data = bytearray((bundle / name).read_bytes())
    data[where] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=name.removesuffix(".sha256")):
        read_sealed(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(make_bundle, name):
    bundle = make_bundle()
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        read_sealed(bundle)


def test_a_link_is_no_file_of_the_bundle(make_bundle, tmp_path):
    bundle = make_bundle()
    outside = tmp_path / "outside"
    (bundle / "golden.npz").rename(outside)
    (bundle / "golden.npz").symlink_to(outside)
    with pytest.raises(BundleError, match=r"'golden.npz' is not a plain file name of this folder"):
        read_sealed(bundle)


def reseal(bundle, **changes):
    manifest = json.loads((bundle / MANIFEST).read_text()) | changes
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    (bundle / f"{MANIFEST}.sha256").write_text(seal_text(digest(bundle / MANIFEST), MANIFEST))


def test_another_schema_is_told_apart(make_bundle):
    bundle = make_bundle()
    reseal(bundle, schema_version=2)
    with pytest.raises(BundleError, match=r"schema_version 2; this reads 1"):
        read_sealed(bundle)


def test_a_path_out_of_the_bundle_is_refused(make_bundle):
    bundle = make_bundle()
    reseal(bundle, sha256={"../secret": "0" * 64})
    with pytest.raises(BundleError, match=r"'../secret' is not a plain file name"):
        read_sealed(bundle)


def test_a_wrong_key_is_named(make_bundle):
    bundle = make_bundle()
    reseal(bundle, backend="tvm")
    with pytest.raises(BundleError, match=r"manifest.json: backend = 'tvm'"):
        read_sealed(bundle)


def test_an_engine_without_a_digest_is_refused(make_bundle):
    bundle = make_bundle()
    sha256 = json.loads((bundle / MANIFEST).read_text())["sha256"]
    del sha256["engine.onnx"]
    reseal(bundle, sha256=sha256)
    with pytest.raises(BundleError, match=r"has no digest of its engine engine\.onnx"):
        read_sealed(bundle)


@pytest.mark.parametrize("name", [".hidden", "a b", "a/b", "a\n", "", "..", "-rf", "x" * 200])
def test_a_name_that_is_not_plain_is_refused(name, make_bundle):
    bundle = make_bundle()
    reseal(bundle, sha256={name: "0" * 64})
    with pytest.raises(BundleError, match="is not a plain file name of this folder"):
        read_sealed(bundle)


def test_a_face_that_is_too_large_is_not_read(make_bundle):
    bundle = make_bundle()
    reseal(bundle, padding=" " * MAX_FACE_BYTES)
    with pytest.raises(BundleError, match=f"has more than {MAX_FACE_BYTES} bytes"):
        read_sealed(bundle)


def test_a_face_that_is_a_link_is_not_read(make_bundle, tmp_path):
    bundle = make_bundle()
    (bundle / MANIFEST).rename(tmp_path / "elsewhere")
    (bundle / MANIFEST).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"manifest\.json is a link"):
        read_sealed(bundle)


def test_a_stopwatch_that_trusts_only_some(make_bundle, tmp_path):
    """Signed by hand: the bottom room checks signatures and never makes one."""
    bundle = make_bundle()
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = public.public_bytes(serialization.Encoding.PEM, form)
    (tmp_path / "maker.pub").write_bytes(pem)
    trusted = read_trusted(tmp_path / "maker.pub")
    with pytest.raises(BundleError, match="is not signed, and only bundles signed by a key of"):
        read_sealed(bundle, trusted)

    signature = key.sign(message(digest(bundle / MANIFEST))).hex()
    signed = Signature(key_id=key_id(public), signature=signature)
    (bundle / f"{MANIFEST}.sig").write_text(signed.text())
    assert read_sealed(bundle, trusted) == read_sealed(bundle)

    (bundle / "engine.cache").write_bytes(b"of somebody else")
    with pytest.raises(BundleError, match=r"engine\.cache is no file of the bundle"):
        read_sealed(bundle, trusted)
