from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deploy.artifacts import EXPORT, SBOM, Bundle, BundleError, StudentExport
from deploy.golden import GoldenPairs
from deploy.imaging import RGB, from_model, range_spec
from deploy.manifests import EVIDENCE, Latency, Manifest, content_digest
from deploy.sealing import seal
from deploy.tiling.spec import TILING
from devices.profile import Frozen
from devices.sealed import MANIFEST, digest, seal_text

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "serving" / "manifest.json"


class Face(Frozen):
    text: str = "face"
    sha256: dict[str, str]


def writer(content=b"new"):
    def fill(folder):
        (folder / "data.bin").write_bytes(content)
        return lambda sha256: Face(sha256=sha256)

    return fill


@pytest.fixture
def export(sealed_export, tmp_path):
    """A copy to do harm to."""
    shutil.copytree(sealed_export.path, tmp_path / "export")
    return tmp_path / "export"


@pytest.fixture
def bundle(sealed_bundle, tmp_path):
    """A copy to do harm to."""
    shutil.copytree(sealed_bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.write_bytes(data)


def rewrite(folder, name, **changes):
    """Change the face and seal it again, as one who means harm would."""
    face = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(face))
    (folder / f"{name}.sha256").write_text(seal_text(digest(folder / name), name))


@pytest.mark.parametrize(
    "name",
    [
        "export.json",
        "export.json.sha256",
        "student.onnx",
        "calibration.npz",
        "golden.npz",
        "teacher.safetensors",
    ],
)
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_an_export_with_one_damaged_file(name, damage, export):
    assert StudentExport.read(export).path == export
    damage(export / name)
    with pytest.raises(BundleError, match=name.removesuffix(".sha256")):
        StudentExport.read(export)


def test_every_file_of_an_export_is_in_the_test_above(export):
    assert sorted(path.name for path in export.iterdir()) == [
        "calibration.npz",
        "export.json",
        "export.json.sha256",
        "golden.npz",
        "student.onnx",
        "teacher.safetensors",
    ]


FILES = ["engine.onnx", EVIDENCE, "golden.npz", MANIFEST, f"{MANIFEST}.sha256", SBOM, TILING]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_a_bundle_with_one_damaged_file(name, damage, bundle):
    assert Bundle.read(bundle).path == bundle
    damage(bundle / name)
    with pytest.raises(BundleError, match=name.removesuffix(".sha256")):
        Bundle.read(bundle)


def test_every_file_of_a_bundle_is_in_the_test_above(bundle):
    assert sorted(path.name for path in bundle.iterdir()) == FILES


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="is not a complete bundle or export"):
        Bundle.read(tmp_path)


@pytest.mark.parametrize("name", ["../export/student.onnx", "engine.onnx"])
def test_an_engine_nobody_vouches_for(name, bundle):
    sha256 = json.loads((bundle / MANIFEST).read_text())["sha256"]
    del sha256["engine.onnx"]
    rewrite(bundle, MANIFEST, sha256=sha256, engine_file=name)
    with pytest.raises(BundleError, match=r"has no digest for '.*\.onnx'"):
        Bundle.read(bundle)


def test_an_engine_outside_the_folder(bundle, export):
    outside = "../export/student.onnx"
    sha256 = json.loads((bundle / MANIFEST).read_text())["sha256"]
    sha256[outside] = digest(export / "student.onnx")
    rewrite(bundle, MANIFEST, sha256=sha256, engine_file=outside)
    with pytest.raises(BundleError, match="is not a plain file name of this folder"):
        Bundle.read(bundle)


def test_an_engine_that_is_a_link(bundle, tmp_path):
    (bundle / "engine.onnx").rename(tmp_path / "elsewhere")
    (bundle / "engine.onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is not a plain file name"):
        Bundle.read(bundle)


def test_a_student_nobody_vouches_for(export):
    sha256 = json.loads((export / EXPORT).read_text())["sha256"]
    del sha256["student.onnx"]
    rewrite(export, EXPORT, sha256=sha256)
    with pytest.raises(BundleError, match=r"export\.json has no digest for 'student\.onnx'"):
        StudentExport.read(export)


def test_another_schema(bundle):
    rewrite(bundle, MANIFEST, schema_version=2)
    with pytest.raises(BundleError, match="has schema_version 2; this pocketgan reads 1"):
        Bundle.read(bundle)


def test_an_unknown_key(bundle):
    rewrite(bundle, MANIFEST, presicion="int8")
    with pytest.raises(BundleError, match="unknown key 'presicion'; did you mean 'precision'"):
        Bundle.read(bundle)


@pytest.mark.parametrize("truth", [True, False])
def test_golden_pairs_come_back_as_they_were(truth, tmp_path, make_photos):
    source = make_photos(2)
    student = np.linspace(-1, 1, source.size, dtype=np.float32).reshape(2, 3, 32, 32)
    pairs = GoldenPairs(source, student, source + 1 if truth else None, source + 2)
    pairs.write(tmp_path / "golden.npz")
    first = (tmp_path / "golden.npz").read_bytes()
    back = GoldenPairs.read(tmp_path / "golden.npz")
    for name in ("source", "student", "target", "teacher"):
        np.testing.assert_array_equal(getattr(back, name), getattr(pairs, name))
    back.write(tmp_path / "golden.npz")
    assert (tmp_path / "golden.npz").read_bytes() == first


def test_golden_pairs_say_nothing_of_when_they_were_written(tmp_path, make_photos):
    """So that the same pairs are the same file tomorrow."""
    source = make_photos(1)
    GoldenPairs(source, np.zeros((1, 3, 32, 32), np.float32), None, None).write(tmp_path / "g.npz")
    with zipfile.ZipFile(tmp_path / "g.npz") as pairs:
        assert {one.date_time for one in pairs.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    back = GoldenPairs.read(tmp_path / "g.npz")
    assert back.teacher is back.target is None


def test_quality_is_beside_the_best_that_is_known(make_photos):
    truth, teacher = make_photos(1, seed=1), make_photos(1, seed=2)
    student = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    spec = range_spec(0, 1)
    for target, theirs, name, wanted in (
        (truth, teacher, "truth", truth),
        (None, teacher, "teacher", teacher),
        (None, None, "float student", from_model(student, spec)),
    ):
        got, images = GoldenPairs(truth, student, target, theirs).reference(spec)
        assert got == name
        np.testing.assert_array_equal(images, wanted)


@pytest.fixture
def face():
    latency = Latency(p50_ms=1.0, p90_ms=2.0, samples=50, first_ms=3.0, load_ms=4.0)
    sample = Manifest.model_validate_json(SAMPLE.read_text())
    return sample.model_copy(update={"latency": latency, "sha256": {"engine.onnx": "1"}})


def changed(face, **candidate):
    (only,) = face.candidates
    return face.model_copy(update={"candidates": (only.model_copy(update=candidate),)})


@pytest.mark.parametrize(
    "another_run",
    [
        lambda face: face.model_copy(update={"latency": None}),
        lambda face: face.model_copy(update={"machine": {"cpu": "busy"}}),
        lambda face: face.model_copy(
            update={"teacher": face.teacher.model_copy(update={"torch_eager_p50_ms": 80.0})}
        ),
        lambda face: face.model_copy(update={"sha256": face.sha256 | {EVIDENCE: "2"}}),
        lambda face: face.model_copy(update={"content_sha256": "3"}),
        lambda face: changed(face, p50_ms=9.0, psnr_db=59.9, reason="slower"),
    ],
)
def test_what_is_measured_does_not_change_the_content(another_run, face):
    assert another_run(face) != face
    assert content_digest(another_run(face)) == content_digest(face)


@pytest.mark.parametrize(
    "other",
    [
        lambda face: face.model_copy(update={"sha256": {"engine.onnx": "2"}}),
        lambda face: face.model_copy(update={"precision": "int8"}),
        lambda face: face.model_copy(update={"lineage": face.lineage | {"teacher": "other"}}),
        lambda face: face.model_copy(update={"versions": {"onnxruntime": "other"}}),
        lambda face: face.model_copy(
            update={"profile": face.profile.model_copy(update={"threads": 7})}
        ),
        lambda face: face.model_copy(
            update={"model": face.model.model_copy(update={"pixels": range_spec(0, 1)})}
        ),
        lambda face: face.model_copy(
            update={"teacher": face.teacher.model_copy(update={"params": 11})}
        ),
        lambda face: changed(face, quantizer="nncf"),
    ],
)
def test_what_is_made_of_other_things_has_other_content(other, face):
    assert content_digest(other(face)) != content_digest(face)


def test_a_manifest_older_than_pixels_reads_as_the_default():
    assert "pixels" not in json.loads(SAMPLE.read_text())["model"]
    assert Manifest.model_validate_json(SAMPLE.read_text()).model.pixels == RGB


def test_pixels_come_back_as_they_were(face):
    spec = range_spec(0, 1, "bgr")
    face = face.model_copy(update={"model": face.model.model_copy(update={"pixels": spec})})
    assert Manifest.model_validate_json(face.model_dump_json()) == face


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_sealing_twice_replaces_the_first(tmp_path):
    out = tmp_path / "deep" / "out"
    seal(out, "face.json", writer(b"old"))
    seal(out, "face.json", writer())
    assert sorted(contents(out)) == ["data.bin", "face.json", "face.json.sha256"]
    assert (out / "data.bin").read_bytes() == b"new"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    checked = subprocess.run(["sha256sum", "--check", "face.json.sha256"], cwd=out)
    assert checked.returncode == 0


def test_the_same_content_seals_to_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        seal(tmp_path / name, "face.json", writer())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_sealing_through_a_link_replaces_what_it_points_to(tmp_path):
    seal(tmp_path / "real", "face.json", writer(b"old"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    seal(tmp_path / "link", "face.json", writer())
    assert (tmp_path / "real" / "data.bin").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("kind", ["home", "file"])
def test_sealing_over_something_else(kind, tmp_path):
    out = tmp_path / "out"
    if kind == "home":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    else:
        out.write_text("years of work")
    with pytest.raises(ValueError, match=r"out is in the way: it holds no face\.json to replace"):
        seal(out, "face.json", writer())
    assert (out / "thesis.tex" if kind == "home" else out).read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sealing_into_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is in the way"):
        seal(Path(), "face.json", writer())
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("step", [0, 1])
def test_a_rename_that_fails_leaves_the_old_one(step, tmp_path, monkeypatch):
    out = tmp_path / "out"
    seal(out, "face.json", writer(b"old"))
    before, real, calls = contents(out), os.replace, []

    def replace(source, target):
        calls.append(source)
        if len(calls) == step + 1:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="Input/output"):
        seal(out, "face.json", writer())
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("full", ["data.bin", "face.json", "face.json.sha256"])
def test_a_disk_that_is_full_leaves_the_old_one(full, tmp_path, monkeypatch):
    out = tmp_path / "out"
    seal(out, "face.json", writer(b"old"))
    before = contents(out)

    def failing(real):
        def write(path, content, *args, **kwargs):
            if path.name == full:
                real(path, content[: len(content) // 2])
                raise OSError(28, "No space left on device", str(path))
            return real(path, content, *args, **kwargs)

        return write

    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes))
    monkeypatch.setattr(Path, "write_text", failing(Path.write_text))
    with pytest.raises(OSError, match="No space left on device"):
        seal(out, "face.json", writer())
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


LIMITED = """
import resource, sys
from pathlib import Path
from deploy.tiling.spec import TILING
from deploy.sealing import seal
from devices.profile import Frozen
class Face(Frozen):
    sha256: dict[str, str]
def fill(folder):
    (folder / "data.bin").write_bytes(bytes(200_000))
    return lambda sha256: Face(sha256=sha256)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
seal(Path(sys.argv[1]), "face.json", fill)
"""


def test_a_file_the_system_refuses_to_grow(tmp_path):
    out = tmp_path / "out"
    seal(out, "face.json", writer(b"old"))
    before = contents(out)
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(out)], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode != 0
    assert "File too large" in ran.stderr
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
