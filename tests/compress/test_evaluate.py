import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from compress.checkpoints import save_network
from compress.evaluate import Question, evaluate, translate
from compress.macs import cost
from compress.measures.images import open_folder, pair_up
from compress.measures.report import Evaluation
from deploy.artifacts import EXPORT
from deploy.imaging import read_image
from deploy.main import main
from deploy.manifests import ExportManifest, Manifest, ModelSpec
from deploy.sealing import seal
from devices.sealed import MANIFEST
from tests.compress.conftest import tiny_discriminator, tiny_generator, write_photos
from tests.compress.test_measures import Tiny
from tests.pictures import encode_png

PIXELS = ("psnr", "ssim")
SAMPLE = Path(__file__).parents[1] / "serving" / "manifest.json"


@pytest.fixture
def folders(tmp_path):
    """Images and references with the same three names."""
    write_photos(tmp_path / "images", 3)
    write_photos(tmp_path / "references", 3, seed=1)
    return tmp_path


def ask(folder, subject="images", **changes):
    changes = {"reference": folder / "references", "measures": PIXELS} | changes
    return evaluate(Question(subject=folder / subject, **changes), extractor=Tiny())


def test_folders_of_images_are_compared_by_name(folders):
    found = ask(folders)
    assert (found.kind, found.images, found.references, found.paired) == ("images", 3, 3, True)
    assert found.cost is None
    assert found.report.value("psnr") < 20
    same = ask(folders, reference=folders / "images")
    assert same.report.value("psnr") == 100


def test_names_that_do_not_pair_are_said(folders):
    (folders / "references" / "2.png").rename(folders / "references" / "zebra.png")
    found = ask(folders, measures=None)
    assert [f.measure for f in found.report.figures] == ["frechet", "kernel"]
    assert found.report.left_out["lpips"] == (
        "for pairs only, and 2 names have no partner (2, zebra ...)"
    )
    assert not found.paired
    with pytest.raises(ValueError, match="psnr cannot be measured: for pairs only, and 2 names"):
        ask(folders)
    assert ask(folders, pairs="order").paired
    with pytest.raises(ValueError, match="and pairs were not asked for"):
        ask(folders, pairs="none")


def test_a_broken_file_is_named_and_skipped_with_its_partner_if_allowed(folders):
    (folders / "images" / "1.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"images/1.png: not a .* image .* --skip-broken"):
        ask(folders)
    found = ask(folders, skip_broken=True)
    assert (found.images, found.references, found.paired) == (2, 2, True)
    assert found.skipped == (str(folders / "images" / "1.png"),)
    with pytest.raises(ValueError, match="pairs by order take the same count of whole files"):
        ask(folders, skip_broken=True, pairs="order")


def test_a_folder_without_images_is_refused(folders):
    (folders / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no images \(.jpg"):
        ask(folders, reference=folders / "empty")
    with pytest.raises(ValueError, match=r"there is no folder of images .*absent"):
        ask(folders, reference=folders / "absent")
    with pytest.raises(ValueError, match=r"there is no .*absent: give a folder of images, a net"):
        ask(folders, "absent")


def test_halves_of_files_are_images(tmp_path):
    (tmp_path / "packed").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    (tmp_path / "packed" / "0.png").write_bytes(encode_png(image))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "0.png").write_bytes(encode_png(image[:, 1:]))
    left, right = (next(iter(open_folder(tmp_path / "packed", half=h))) for h in ("left", "right"))
    np.testing.assert_array_equal(np.concatenate([left, right], axis=1), image)
    with pytest.raises(ValueError, match=r"0.png is 79 pixels wide, and has no equal halves"):
        open_folder(tmp_path / "odd", half="left")


def test_a_grey_file_is_an_image(tmp_path):
    write_photos(tmp_path / "grey", 1)
    (path,) = (tmp_path / "grey").iterdir()
    grey = read_image(path)[..., :1]
    Image.fromarray(grey[..., 0]).save(path.with_suffix(".jpg"), quality=95)
    path.unlink()
    (pixels,) = open_folder(tmp_path / "grey")
    assert pixels.shape[2] == 3
    assert (pixels[..., 0] == pixels[..., 1]).all()


def test_names_that_occur_twice_do_not_pair(folders):
    for kind in ("images", "references"):
        photo = (folders / kind / "0.png").read_bytes()
        (folders / kind / "0.PNG").write_bytes(photo)
    both = [open_folder(folders / kind) for kind in ("images", "references")]
    assert pair_up(*both, "name")[2] == "names occur twice, with different suffixes"


def test_a_network_translates_images_of_any_size(folders):
    generator = tiny_generator(4, blocks=1)
    save_network(folders / "net.safetensors", generator)
    write_photos(folders / "odd", 3, size=(70, 65), seed=3)
    found = ask(folders, "net.safetensors", source=folders / "odd", reference=folders / "odd")
    assert (found.kind, found.runs_on, found.images) == ("network", "torch float32", 3)
    assert found.report.value("psnr") < 100
    counted = cost(generator, 256)
    assert found.cost.image_size == 256
    assert (found.cost.params, found.cost.macs, found.cost.macs_published) == (
        counted.params,
        counted.macs,
        counted.macs_published,
    )
    assert len(found.sha256) == 64


def test_what_a_network_makes_is_what_translate_makes(folders):
    generator = tiny_generator(4, blocks=1)
    save_network(folders / "net.safetensors", generator)
    sources = tuple(open_folder(folders / "images"))
    (folders / "made").mkdir()
    for index, made in enumerate(translate(generator, sources)):
        (folders / "made" / f"{index}.png").write_bytes(encode_png(made))
    source = folders / "images"
    found = ask(folders, "net.safetensors", source=source, reference=folders / "made")
    assert found.report.value("psnr") == 100


def test_a_discriminator_makes_no_images(folders):
    save_network(folders / "judge.safetensors", tiny_discriminator())
    with pytest.raises(ValueError, match=r"judge.safetensors: PatchDiscriminator is no generator"):
        ask(folders, "judge.safetensors", source=folders / "images")


def test_a_network_wants_a_source_and_images_want_none(folders):
    save_network(folders / "net.safetensors", tiny_generator(4, blocks=1))
    with pytest.raises(ValueError, match=r"net.safetensors makes images: name the .* --source"):
        ask(folders, "net.safetensors")
    with pytest.raises(ValueError, match="is a folder of images: there is nothing to translate"):
        ask(folders, source=folders / "references")


def spec():
    return ModelSpec(
        name="tiny",
        task="paired",
        family="resnet",
        image_size=64,
        size_multiple=4,
        params=10,
        macs=20,
        macs_published=30,
    )


def test_an_export_is_evaluated_as_its_float_student(folders):
    generator = tiny_generator(4, blocks=1)

    def fill(folder):
        for name in ("student.onnx", "calibration.npz", "golden.npz"):
            (folder / name).write_bytes(b"not looked at")
        save_network(folder / "student.safetensors", generator)
        return lambda sha256: ExportManifest.model_validate(
            {
                "model": spec(),
                "teacher": {"params": 1, "macs": 1, "macs_published": 1},
                "student": None,
                "student_to_teacher": {"psnr_db": 1.0, "ssim": 1.0},
                "channel_multiple": 1,
                "floor": {"psnr_db": 1.0, "truth_drop_db": 1.0},
                "lineage": {},
                "versions": {},
                "sha256": sha256,
            }
        )

    seal(folders / "export", EXPORT, fill)
    found = ask(folders, "export", source=folders / "images")
    assert (found.kind, found.cost.params, found.cost.image_size) == ("export", 10, 64)
    save_network(folders / "net.safetensors", generator)
    as_network = ask(folders, "net.safetensors", source=folders / "images")
    assert found.report == as_network.report


def test_a_bundle_is_evaluated_as_its_engine(folders):
    sample = Manifest.model_validate_json(SAMPLE.read_text())
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "h", "w"])
    made = helper.make_tensor_value_info("translation", TensorProto.FLOAT, [1, 3, "h", "w"])
    negative = helper.make_graph(
        [helper.make_node("Neg", ["image"], ["translation"])], "negative", [image], [made]
    )
    model = helper.make_model(negative, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    def fill(folder):
        onnx.save(model, folder / "engine.onnx")
        (folder / "golden.npz").write_bytes(b"not looked at")
        return lambda sha256: sample.model_copy(
            update={
                "model": spec(),
                "engine_file": "engine.onnx",
                "backend": "onnxruntime",
                "precision": "fp32",
                "sha256": sha256,
            }
        )

    seal(folders / "bundle", MANIFEST, fill)
    (folders / "negatives").mkdir()
    for index, pixels in enumerate(open_folder(folders / "images")):
        (folders / "negatives" / f"{index}.png").write_bytes(encode_png(255 - pixels))
    source = folders / "images"
    found = ask(folders, "bundle", source=source, reference=folders / "negatives")
    assert (found.kind, found.runs_on) == ("bundle", "onnxruntime fp32")
    assert found.report.value("psnr") == 100


def test_a_larger_translation_is_compared_with_a_border(folders, monkeypatch):
    class Doubles(torch.nn.Module):
        multiple, scale, taps, spec = 1, 2, (), {"family": "doubles"}

        def forward(self, images):
            return torch.nn.functional.interpolate(images, scale_factor=2, mode="nearest")

    write_photos(folders / "large", 3, size=(224, 256), seed=2)
    (folders / "net.safetensors").write_bytes(b"looked at by the stub below")
    monkeypatch.setattr("compress.measures.subjects.load_network", lambda path: Doubles())
    monkeypatch.setattr(
        "compress.measures.subjects.cost", lambda *_: cost(tiny_generator(4, blocks=1), 128)
    )
    found = ask(
        folders,
        "net.safetensors",
        source=folders / "images",
        reference=folders / "large",
        measures=("psnr", "psnr_y"),
    )
    assert found.cost.image_size == 128
    assert "border of 2 px cut" in found.report.figures[1].protocol


def test_progress_counts_images_and_references(folders):
    seen = []
    evaluate(
        Question(folders / "images", folders / "references", measures=PIXELS),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(n, 6) for n in range(1, 7)]


def test_the_command_prints_counts_and_protocol_and_writes_json(folders, capsys):
    words = ["evaluate", str(folders / "images"), "--reference", str(folders / "references")]
    to = folders / "figures.json"
    assert main([*words, "--measures", "psnr,ssim", "--json", str(to)]) == 0
    said = capsys.readouterr().out
    assert "3 references, in pairs" in said
    assert "PSNR (dB)" in said
    assert "8-bit RGB, mean over pairs" in said
    written = Evaluation.model_validate_json(to.read_text())
    assert written.report.value("psnr") == pytest.approx(
        json.loads(to.read_text())["report"]["figures"][0]["value"]
    )


def test_the_command_says_what_is_wrong(folders, capsys):
    words = ["evaluate", str(folders / "images"), "--reference", str(folders / "references")]
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--measures", "fud"])
    assert "pocketgan evaluate: no measure 'fud'; there are: fid" in capsys.readouterr().err
