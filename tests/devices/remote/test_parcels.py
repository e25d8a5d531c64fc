"""What travels, and what comes back from somebody nobody vouches for."""

from __future__ import annotations

import io
import json
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from devices.profile import load_profile, profile_names
from devices.remote.parcels import (
    Wheels,
    as_toml,
    own_version,
    pack_bundle,
    unpack_bundle,
    wheel_version,
)
from devices.remote.words import BoardError
from devices.sealed import MANIFEST, read_sealed


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_travels_as_toml(name, tmp_path):
    profile = load_profile(name)
    path = tmp_path / "profile.toml"
    path.write_text(as_toml(json.loads(profile.model_dump_json(exclude_none=True))))
    assert load_profile(path) == profile
    assert tomllib.loads(as_toml({"a": {"b c": ['"\\\n\u00e9', 1e-7, True, {}]}})) == {
        "a": {"b c": ['"\\\n\u00e9', 1e-7, True, {}]}
    }


def test_a_bundle_travels_without_strangers(bundle, tmp_path):
    (bundle / "notes.txt").write_text("private")
    parcel = pack_bundle(bundle, read_sealed(bundle), tmp_path)
    with tarfile.open(parcel.archive) as archive:
        names = archive.getnames()
        assert all(entry.uid == 0 and not entry.uname and not entry.mtime for entry in archive)
    assert names == sorted(["engine.onnx", "golden.npz", MANIFEST, f"{MANIFEST}.sha256"])
    assert list(parcel.sha256) == names


def archive_of(path: Path, *entries: tuple[str, bytes, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.linkname = kind, len(content), "/etc/passwd"
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([("../evil", tarfile.REGTYPE, b"x")], "'../evil', which is not of the bundle"),
        ([("/tmp/evil", tarfile.REGTYPE, b"x")], "which is not of the bundle"),
        ([("a", tarfile.SYMTYPE, b"")], "'a', which is not of the bundle"),
        ([("a", tarfile.LNKTYPE, b"")], "'a', which is not of the bundle"),
        ([("a", tarfile.DIRTYPE, b"")], "'a', which is not of the bundle"),
        ([("a", tarfile.REGTYPE, b"x")] * 2, "'a', no plain new file name"),
        ([("..", tarfile.REGTYPE, b"x")], "'..', no plain new file name"),
        ([("a", tarfile.REGTYPE, b"x" * 101)], "'a', which is not of the bundle"),
        ([("\x1b]0;a", tarfile.REGTYPE, b"x")], r"'\]0;a', which is not"),
    ],
)
def test_an_archive_that_holds_more_than_it_should(entries, said, tmp_path):
    archive = archive_of(tmp_path / "a.tar", *entries)
    with pytest.raises(BoardError, match=said):
        unpack_bundle(archive, tmp_path / "out", {"a", ".."}, 100)
    assert not (tmp_path / "evil").exists()


def test_what_is_no_archive(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(BoardError, match="it sent a bundle that is no archive"):
        unpack_bundle(tmp_path / "a.tar", tmp_path / "out", {"a"}, 100)


def test_a_wheel_must_be_one_of_ours(tmp_path):
    wheel = tmp_path / "pocketgan-1.2-py3-none-any.whl"
    with pytest.raises(ValueError, match="is no wheel of pocketgan"):
        wheel_version(wheel)
    wheel.touch()
    assert wheel_version(wheel) == "1.2"
    other = tmp_path / "pocketgan-1.2-cp311-cp311-linux_x86_64.whl"
    other.touch()
    with pytest.raises(ValueError, match="python -m build makes one"):
        wheel_version(other)


def test_no_checkout_to_build_from(tmp_path):
    with pytest.raises(BoardError, match=r"no checkout here.*name a wheel with wheel = in the inv"):
        Wheels(tmp_path, root=tmp_path).own()
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(BoardError, match=r"no wheel could be built here \(.+\): install it there"):
        Wheels(tmp_path, root=tmp_path).own()


@pytest.mark.slow
def test_the_wheel_of_this_checkout(tmp_path):
    wheels = Wheels(tmp_path)
    wheel = wheels.own()
    assert wheels.own() is wheel
    assert wheel_version(wheel) == own_version()
    with zipfile.ZipFile(wheel) as archive:
        assert {"devices/remote/far_side.py", "deploy/main.py"} <= set(archive.namelist())
