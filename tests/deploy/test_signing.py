"""Who made a bundle, and that nobody changed it since: keys, signatures, and the three verbs."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from deploy.artifacts import Bundle
from deploy.main import main
from deploy.manifests import EVIDENCE, Latency, Manifest, content_digest
from deploy.sealing import seal
from deploy.signing import generate, read_private, sign
from devices.sealed import MANIFEST, BundleError, digest, seal_text
from devices.signature import DOMAIN, MAX_BYTES, key_id, message, read_signature, read_trusted

SAMPLE = Path(__file__).parents[1] / "serving" / "manifest.json"
SIG = f"{MANIFEST}.sig"
BIG = 2000
"""Bytes from which on a file is sampled, at so many places."""
SAMPLES = 100


def write_bundle(out):
    latency = Latency(p50_ms=7.25, p90_ms=8.0, samples=50, first_ms=9.0, load_ms=10.0)
    face = Manifest.model_validate_json(SAMPLE.read_text())
    face = face.model_copy(update={"latency": latency})

    def fill(folder):
        (folder / "engine.onnx").write_bytes(bytes(range(256)))
        (folder / "golden.npz").write_bytes(bytes(100_000))
        (folder / EVIDENCE).write_text("{}\n")

        def finish(sha256):
            whole = face.model_copy(update={"sha256": sha256})
            return whole.model_copy(update={"content_sha256": content_digest(whole)})

        return finish

    seal(out, MANIFEST, fill)
    return out


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def key(tmp_path):
    generate(tmp_path / "maker")
    return tmp_path / "maker"


@pytest.fixture
def trusted(key):
    return read_trusted(key.with_name("maker.pub"))


@pytest.fixture
def signed(bundle, key):
    sign(bundle, key)
    return bundle


def reseal(folder, old, new):
    """Change the manifest's text and seal it again, as one who means harm would."""
    face = folder / MANIFEST
    text = face.read_text()
    assert text.count(old) == 1
    face.write_text(text.replace(old, new))
    (folder / f"{MANIFEST}.sha256").write_text(seal_text(digest(face), MANIFEST))


def test_a_signed_bundle_reads_with_and_without_keys(signed, trusted):
    assert Bundle.read(signed, trusted) == Bundle.read(signed)
    assert trusted.verify(signed) in trusted.keys


def test_every_flipped_byte_of_a_bundle_is_caught(signed, trusted):
    files = sorted(path.name for path in signed.iterdir())
    assert files == ["engine.onnx", EVIDENCE, "golden.npz", MANIFEST, f"{MANIFEST}.sha256", SIG]
    for name in files:
        whole = (signed / name).read_bytes()
        every = 1 if len(whole) < BIG or name == MANIFEST else len(whole) // SAMPLES
        places = {*range(0, len(whole), every), len(whole) - 1}
        for at in places:
            harmed = bytearray(whole)
            harmed[at] ^= 1 << at % 8
            (signed / name).write_bytes(harmed)
            with pytest.raises(BundleError):
                Bundle.read(signed, trusted)
        (signed / name).write_bytes(whole)
    assert Bundle.read(signed, trusted)


@pytest.mark.parametrize("name", [SIG, f"{MANIFEST}.sha256"])
def test_every_flipped_bit_of_the_small_files_is_caught(name, signed, trusted):
    whole = (signed / name).read_bytes()
    for at in range(8 * len(whole)):
        harmed = bytearray(whole)
        harmed[at // 8] ^= 1 << at % 8
        (signed / name).write_bytes(harmed)
        with pytest.raises(BundleError):
            Bundle.read(signed, trusted)


def test_one_changed_latency_figure_sealed_again(signed, trusted):
    reseal(signed, '"p50_ms": 7.25', '"p50_ms": 0.5')
    assert Bundle.read(signed).manifest.latency.p50_ms == 0.5  # its digests are in order
    with pytest.raises(BundleError, match=r"manifest\.json is not what key [0-9a-f]{16} signed"):
        Bundle.read(signed, trusted)
    assert main(["verify", str(signed), "--key", str(trusted.source)]) == 1


def test_an_engine_is_not_looked_at_before_the_signature(signed, bundle, trusted):
    (bundle / SIG).unlink()
    (bundle / "engine.onnx").unlink()
    with pytest.raises(BundleError, match="is not signed, and only bundles signed by a key of"):
        Bundle.read(bundle, trusted)


def test_another_key(signed, tmp_path):
    public, other = generate(tmp_path / "other")
    theirs = read_trusted(public)
    wrong = rf"signed by key [0-9a-f]{{16}}, which is not in {public} \({other}\)"
    with pytest.raises(BundleError, match=wrong):
        Bundle.read(signed, theirs)


def test_a_signature_that_names_another_key(signed, trusted, tmp_path):
    """The other key is trusted too, but it did not sign."""
    _, other = generate(tmp_path / "other")
    both = read_trusted(tmp_path)
    assert both.keys.keys() == {*trusted.keys, other}
    text = (signed / SIG).read_text()
    (signed / SIG).write_text(text.replace(next(iter(trusted.keys)), other))
    with pytest.raises(BundleError, match=f"is not what key {other} signed"):
        Bundle.read(signed, both)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-20], "Invalid JSON"),
        (lambda text: text.replace("ed25519", "none"), "algorithm = 'none'"),
        (lambda text: text.replace("}", ', "extra": 1}'), "unknown key 'extra'"),
        (lambda text: text + "\n", "written otherwise"),
        (lambda text: re.sub(r'[0-9a-f]{2}"\n}', '"\n}', text), "signature = "),
        (lambda text: "", "Invalid JSON"),
        (lambda text: text + " " * MAX_BYTES, f"more than {MAX_BYTES} bytes"),
    ],
)
def test_a_signature_that_is_none(change, reason, signed, trusted):
    path = signed / SIG
    path.write_text(change(path.read_text()))
    with pytest.raises(BundleError, match="is not a signature of pocketgan sign.*" + reason):
        Bundle.read(signed, trusted)


def test_a_signature_that_is_a_link(signed, trusted, tmp_path):
    (signed / SIG).rename(tmp_path / "elsewhere")
    (signed / SIG).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="a link, a folder"):
        Bundle.read(signed, trusted)


def test_a_file_that_nobody_vouches_for(signed, trusted):
    (signed / "engine.bin").write_bytes(b"weights of somebody else")
    assert Bundle.read(signed)
    with pytest.raises(BundleError, match=r"engine\.bin is no file of the bundle"):
        Bundle.read(signed, trusted)


def test_deploying_again_leaves_no_old_signature(signed, trusted):
    write_bundle(signed)
    assert not (signed / SIG).exists()
    with pytest.raises(BundleError, match="is not signed"):
        Bundle.read(signed, trusted)


def test_signing_again_replaces_the_signature(signed, key, tmp_path):
    first = (signed / SIG).read_bytes()
    public, other = generate(tmp_path / "other")
    sign(signed, tmp_path / "other")
    assert read_trusted(public).verify(signed) == other
    sign(signed, key)
    assert (signed / SIG).read_bytes() == first  # Ed25519 signs the same thing the same way
    assert sorted(path.name for path in signed.iterdir() if path.name.startswith(".")) == []


def test_nobody_vouches_for_what_is_damaged(bundle, key):
    (bundle / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"golden\.npz does not match its digest"):
        sign(bundle, key)
    assert not (bundle / SIG).exists()


def test_what_is_signed_says_what_it_is_for(signed, key, trusted):
    """A signature of the same digest for another purpose does not pass."""
    secret = read_private(key)
    assert message("ab") == DOMAIN + b"ab" != b"ab"
    theirs = secret.sign(digest(signed / MANIFEST).encode())
    ours = read_signature(signed)
    (signed / SIG).write_text(ours.model_copy(update={"signature": theirs.hex()}).text())
    with pytest.raises(BundleError, match="is not what key"):
        Bundle.read(signed, trusted)


def test_a_key_is_its_owners_and_is_never_overwritten(tmp_path):
    public, name = generate(tmp_path / "maker")
    assert stat.S_IMODE((tmp_path / "maker").stat().st_mode) == 0o600
    before = (tmp_path / "maker").read_bytes()
    assert before.startswith(b"-----BEGIN PRIVATE KEY-----")
    with pytest.raises(ValueError, match=r"maker exists and is not overwritten"):
        generate(tmp_path / "maker")
    assert (tmp_path / "maker").read_bytes() == before
    assert list(read_trusted(public).keys) == [name]


def test_a_public_key_is_not_overwritten_either(tmp_path):
    (tmp_path / "maker.pub").write_text("of somebody else")
    with pytest.raises(ValueError, match=r"maker\.pub exists and is not overwritten"):
        generate(tmp_path / "maker")
    assert not (tmp_path / "maker").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read(mode, bundle, key):
    key.chmod(mode)
    with pytest.raises(ValueError, match=rf"can be used by others \(mode {mode:04o}\).*chmod 600"):
        sign(bundle, key)


def pem(key, password=None):
    encrypted = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encrypted
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ""),
        (b"x" * (MAX_BYTES + 1), "more than"),
        (pem(X25519PrivateKey.generate()), "it is for another algorithm"),
        (pem(Ed25519PrivateKey.generate(), b"secret"), "it is encrypted"),
    ],
)
def test_a_private_key_that_is_none(content, reason, tmp_path):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=f"is not an Ed25519 private key in PEM.*{reason}"):
        read_private(path)


def test_a_private_key_is_not_taken_for_a_public_one(key):
    with pytest.raises(ValueError, match="maker is not an Ed25519 public key in PEM"):
        read_trusted(key)


def test_a_folder_without_keys_trusts_nobody(tmp_path):
    with pytest.raises(ValueError, match="holds no public key"):
        read_trusted(tmp_path)
    with pytest.raises(ValueError, match="there is no public key"):
        read_trusted(tmp_path / "missing")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees(signed, key, tmp_path):
    """The files are the standard ones: anybody can check a bundle without this program."""
    (tmp_path / "message").write_bytes(message(digest(signed / MANIFEST)))
    (tmp_path / "signature").write_bytes(bytes.fromhex(read_signature(signed).signature))
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", f"{key}.pub"]
    command += ["-in", str(tmp_path / "message"), "-sigfile", str(tmp_path / "signature")]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_three_verbs(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("POCKETGAN_TRUSTED_KEYS", raising=False)
    maker = tmp_path / "maker"
    assert main(["keygen", "--out", str(maker)]) == 0
    name = key_id(read_private(maker).public_key())
    assert capsys.readouterr().out.startswith(f"key {name}\n{maker} signs: keep it secret")

    assert main(["verify", str(bundle)]) == 0
    assert "signature  none" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--key", f"{maker}.pub"]) == 1
    assert "does not verify" in capsys.readouterr().out

    assert main(["sign", str(bundle), "--key", str(maker)]) == 0
    assert f"signed by key {name}" in capsys.readouterr().out
    assert main(["verify", str(bundle)]) == 0
    assert f"of key {name}, NOT CHECKED" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--key", f"{maker}.pub"]) == 0
    assert f"of key {name}, which is in {maker}.pub" in capsys.readouterr().out

    monkeypatch.setenv("POCKETGAN_TRUSTED_KEYS", str(tmp_path))
    assert main(["verify", str(bundle)]) == 0
    assert "3 as the manifest says" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["engine", "stranger", "signature", "content"])
def test_verify_says_what_does_not(damage, signed, capsys, monkeypatch):
    monkeypatch.delenv("POCKETGAN_TRUSTED_KEYS", raising=False)
    if damage == "engine":
        (signed / "engine.onnx").write_bytes(b"another")
    elif damage == "stranger":
        (signed / "note.txt").write_text("")
    elif damage == "signature":
        (signed / SIG).write_text("{}")
    else:
        reseal(signed, '"engine_file": "engine.onnx"', '"engine_file": "golden.npz"')
    assert main(["verify", str(signed)]) == 1
    said = {
        "engine": "engine.onnx does not match its digest",
        "stranger": "note.txt is no file of the bundle",
        "signature": "is not a signature of pocketgan sign",
        "content": "content_sha256 is not that of its content",
    }
    assert said[damage] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "reason"),
    [("", "POCKETGAN_TRUSTED_KEYS is empty"), ("missing", "there is no public key missing")],
)
def test_an_environment_that_trusts_nobody_is_an_error(value, reason, signed, monkeypatch, capsys):
    monkeypatch.setenv("POCKETGAN_TRUSTED_KEYS", value)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(signed)])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_verify_of_no_folder_is_a_usage_error(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("POCKETGAN_TRUSTED_KEYS", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "nothing")])
    assert ended.value.code == 2
    assert "there is no folder" in capsys.readouterr().err
