import json

import pytest

from devices.sealed import MANIFEST, BundleError, digest, read_sealed, seal_text

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
