import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors import safe_open

from compress.checkpoints import load_network, save_network
from compress.export import to_onnx
from compress.models.blocks import initialize
from compress.models.srvgg import SrvggNet, SrvggWidths
from compress.models.unet import UnetGenerator, UnetWidths
from compress.pipeline import run
from compress.recipe import CompressRecipe, TrainRecipe, load_recipe
from compress.teacher import train_teacher
from deploy.artifacts import StudentExport
from deploy.golden import GoldenPairs
from deploy.imaging import to_model
from devices.profile import load_profile
from devices.sealed import digest
from tests.compress.conftest import Silent, furnish, tiny_generator

pytestmark = pytest.mark.slow  # whole runs


def read(workshop):
    return load_recipe(str(workshop / "tiny.toml"), CompressRecipe)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One workshop with its export, made once; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("made")
    furnish(folder)
    run(read(folder), load_profile("cpu"), folder / "build" / "cpu" / "export", Silent())
    return folder


@pytest.fixture
def export(made):
    return StudentExport.read(made / "build" / "cpu" / "export")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_export_holds_what_deploy_needs(export, cpu):
    face = export.manifest
    assert face.teacher.macs / face.model.macs >= 2.0
    assert face.teacher.psnr_db is not None
    assert face.channel_multiple == cpu.channel_multiple
    assert export.calibration().shape == (4, 64, 64, 3)
    assert export.lpips is None  # its floor does not ask, whatever this machine's cache holds

    golden = GoldenPairs.read(export.golden)
    session = ort.InferenceSession(export.model, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": to_model(golden.source[:1])})
    assert np.abs(got - golden.student[:1]).max() < 1e-4

    log = rows(export.path.parent / "train" / "metrics.jsonl")
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert "student/dcd" in log[0]


def test_a_second_run_does_nothing(made, cpu, export):
    progress = Silent()
    again, new = run(read(made), cpu, export.path, progress)
    assert (new, progress.steps) == (False, 0)
    assert again.manifest == export.manifest


def test_a_student_serves_another_device_that_asks_the_same(made, cpu, export):
    progress = Silent()
    out = made / "build" / "other" / "export"
    other, new = run(read(made), cpu.model_copy(update={"name": "other"}), out, progress)
    assert (new, progress.steps, other.path) == (False, 0, out)
    assert other.manifest == export.manifest


def test_a_folder_that_is_no_export_is_never_replaced(made, cpu, export, tmp_path):
    """The export of another run beside it would be copied over it."""
    shutil.copytree(export.path, tmp_path / "cpu" / "export")
    mine = tmp_path / "mine" / "export"
    mine.mkdir(parents=True)
    (mine / "novel.txt").write_text("chapter one")
    with pytest.raises(ValueError, match=r"is in the way: it holds no export\.json to replace"):
        run(read(made), cpu, mine, Silent())
    assert (mine / "novel.txt").read_text() == "chapter one"


def test_another_channel_multiple_trains_again(made, cpu, export):
    wider = cpu.model_copy(update={"name": "wider", "channel_multiple": 16})
    out = made / "build" / "wider" / "export"
    other, new = run(read(made), wider, out, Silent())
    assert new
    assert other.manifest.lineage["student"] != export.manifest.lineage["student"]


def test_a_damaged_export_is_made_again_with_the_same_bytes(made, cpu, export, tmp_path):
    damaged = tmp_path / "cpu" / "export"
    shutil.copytree(export.path, damaged)
    (damaged / "student.onnx").write_bytes(b"")
    again, new = run(read(made), cpu, damaged, Silent())
    assert new
    assert again.manifest.sha256 == export.manifest.sha256


def test_the_onnx_file_tells_nothing_of_this_machine(export):
    text = export.model.read_bytes()
    assert os.getcwd().encode() not in text
    assert b"site-packages" not in text


@pytest.mark.parametrize("size", [(64, 96), (128, 64)])
def test_the_onnx_file_is_dynamic_and_equal_to_torch(tmp_path, size):
    network = tiny_generator(8, blocks=6).eval()
    to_onnx(network, tmp_path / "n.onnx")
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    session = ort.InferenceSession(tmp_path / "n.onnx", providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        want = network(image).numpy()
    (got,) = session.run(None, {"image": image.numpy()})
    assert np.abs(got - want).max() < 1e-4
    operators = {node.op_type for node in onnx.load(tmp_path / "n.onnx").graph.node}
    assert operators == {"Pad", "Conv", "Relu", "Add", "ConvTranspose", "Tanh"}


def test_the_baseline_method_makes_a_student_too(workshop, cpu):
    text = (workshop / "tiny.toml").read_text()
    start, end = text.index("[method]"), text.index("[training]")
    method = '[method]\nname = "l1"\nimitation = 10.0\nreconstruction = 0.0\n'
    (workshop / "tiny.toml").write_text(text[:start] + method + text[end:])
    out = workshop / "build" / "cpu" / "export"
    assert run(read(workshop), cpu, out, Silent())[1]
    assert set(rows(out.with_name("train") / "metrics.jsonl")[0]) == {"step", "student/imitation"}


def test_a_teacher_that_is_none_is_refused(workshop, cpu):
    text = (workshop / "tiny.toml").read_text()
    wrong = text.replace("/generator.safetensors", "/discriminator.safetensors")
    (workshop / "tiny.toml").write_text(wrong)
    with pytest.raises(ValueError, match="holds a PatchDiscriminator, no generator"):
        run(read(workshop), cpu, workshop / "build" / "cpu" / "export", Silent())


def test_held_back_photos_must_be_large_enough(workshop, cpu):
    text = (workshop / "tiny.toml").read_text()
    (workshop / "tiny.toml").write_text(text.replace("image_size = 64", "image_size = 256"))
    with pytest.raises(ValueError, match="held-back image 0 is 112 x 128; it must be at least 256"):
        run(read(workshop), cpu, workshop / "build" / "cpu" / "export", Silent())


KILLED_AT = (1, 3, 5)  # before the first checkpoint, between two, after the second


@pytest.mark.slow
def test_killed_three_times_it_ends_as_if_it_had_not_been(workshop, cpu):
    """SIGKILL while the first, third and fifth of six steps is the last one logged."""
    command = [sys.executable, "-m", "deploy.main", "compress", str(workshop / "tiny.toml")]
    unbroken, broken = workshop / "a/cpu/export", workshop / "b/cpu/export"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", unbroken], check=True, env=environment, capture_output=True)

    log = broken.with_name("train") / "metrics.jsonl"
    for step in KILLED_AT:
        process = subprocess.Popen(
            [*command, "--out", broken],
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        _wait_for_line(log, step, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not broken.exists()
    subprocess.run([*command, "--out", broken], check=True, env=environment, capture_output=True)

    faces = [StudentExport.read(folder).manifest for folder in (unbroken, broken)]
    assert faces[0] == faces[1]
    assert digest(unbroken / "export.json") == digest(broken / "export.json")
    assert [row["step"] for row in rows(log)] == [1, 2, 3, 4, 5, 6]


TRAIN = """
verb = "train"
name = "tiny-teacher"
description = "a teacher that takes seconds"
seed = 1
[data]
kind = "paired"
train_source = "{folder}/train"
train_target = "{folder}/train"
test_source = "{folder}/test"
test_target = "{folder}/test"
[generator]
family = "resnet"
width = 4
blocks = 6
norm = "instance"
[discriminator]
family = "patchgan"
width = 4
norm = "instance"
[losses]
name = "pix2pix"
adversarial = 1.0
reconstruction = 100.0
mode = "hinge"
[training]
steps = 2
batch_size = 1
crop = 64
learning_rate = 0.001
decay_from = 0.5
checkpoint_every = 1
autocast = true
"""


def test_a_teacher_can_be_trained_and_says_what_made_it(workshop):
    (workshop / "teacher.toml").write_text(TRAIN.format(folder=workshop))
    recipe = load_recipe(str(workshop / "teacher.toml"), TrainRecipe)[0]
    generator, discriminator = train_teacher(recipe, workshop / "run", Silent())
    assert load_network(generator).widths.stem == 4
    assert load_network(discriminator).channels == 6
    made = json.loads((workshop / "run" / "run.json").read_text())
    assert made["recipe"]["seed"] == 1
    assert made["versions"]["torch"] == torch.__version__
    assert len((workshop / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_fixed_statistics_stay_at_mean_zero_and_variance_one(workshop):
    text = TRAIN.format(folder=workshop).replace("width = 4\nblocks", "width = 12\nblocks", 1)
    norm = 'norm = "batch"\nbatch_statistics = "fixed"\ninitialization = "identity"'
    text = text.replace('norm = "instance"', norm, 1)
    (workshop / "teacher.toml").write_text(text)
    recipe = load_recipe(str(workshop / "teacher.toml"), TrainRecipe)[0]
    generator, _ = train_teacher(recipe, workshop / "run", Silent())
    weights = load_network(generator).state_dict()
    assert all((v == 0).all() for k, v in weights.items() if k.endswith("running_mean"))
    assert all((v == 1).all() for k, v in weights.items() if k.endswith("running_var"))


def test_a_finished_training_is_not_done_twice(workshop):
    (workshop / "teacher.toml").write_text(TRAIN.format(folder=workshop))
    recipe = load_recipe(str(workshop / "teacher.toml"), TrainRecipe)[0]
    first = [digest(path) for path in train_teacher(recipe, workshop / "run", Silent())]
    progress = Silent()
    again = [digest(path) for path in train_teacher(recipe, workshop / "run", progress)]
    assert (again, progress.steps, progress.started[2]) == (first, 0, 2)


def _wait_for_line(log, step, process):
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.is_file() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was never logged (exit {process.poll()})")


PHOTOS = """
[data]
kind = "photos"
train = "{folder}/train"
test = "{folder}/test"
"""

UNPAIRED = """
[data]
kind = "unpaired"
train_source = "{folder}/train"
train_target = "{folder}/test"
test_source = "{folder}/test"
test_target = "{folder}/train"
"""

UPSCALE = """
[data]
kind = "super_resolution"
train = "{folder}/train"
test = "{folder}/test"
scale = 2
"""

SMALL_UPSCALER = """
[student]
family = "srvgg"
width = 4
blocks = 4
scale = 2
"""


def recipe_of(workshop, data, *, method, teacher, student=None, image_size=64):
    """The tiny recipe with other data, another method and another student."""
    text = (workshop / "tiny.toml").read_text()
    parts = {table.split("]")[0]: "[" + table for table in text.split("\n[")[1:]}
    parts = {name: part for name, part in parts.items() if not name.startswith("data")}
    parts["method"], parts["teacher"] = method, "[teacher]\n" + teacher
    if student is not None:
        parts["pruning"] = student
    head = text.split("\n[")[0].replace("image_size = 64", f"image_size = {image_size}")
    made = "\n".join([head, data.format(folder=workshop), *parts.values()])
    path = workshop / "other.toml"
    path.write_text(made.replace("steps = 6", "steps = 2").replace("crop = 96", "crop = 64"))
    return load_recipe(str(path), CompressRecipe)[0]


CRD = """
[method]
name = "crd"
relation = 1.0
adversarial = 1.0
feature = 1.0
perceptual = "discriminator"
"""

IMITATE = '[method]\nname = "l1"\nimitation = 1.0\n'


def test_a_teacher_and_photos_are_enough(workshop, cpu):
    generator = f'generator = "{workshop}/generator.safetensors"'
    crd = (
        '[method]\nname = "crd"\nrelation = 1.0\nadversarial = 1.0\nperceptual = "discriminator"\n'
    )
    recipe = recipe_of(workshop, PHOTOS, method=crd + "feature = 1.0", teacher=generator)
    export, _ = run(recipe, cpu, workshop / "b" / "cpu" / "export", Silent())
    face = export.manifest
    assert (face.model.task, face.student, face.teacher.psnr_db) == ("teacher_only", None, None)
    assert GoldenPairs.read(export.golden).target is None
    log = rows(export.path.parent / "train" / "metrics.jsonl")
    assert {"discriminator/adversarial", "student/feature", "student/rows"} <= set(log[0])


def test_unpaired_images_have_no_truth(workshop, cpu):
    generator = f'generator = "{workshop}/generator.safetensors"'
    recipe = recipe_of(workshop, UNPAIRED, method=IMITATE, teacher=generator)
    export, _ = run(recipe, cpu, workshop / "b" / "cpu" / "export", Silent())
    assert export.manifest.model.task == "unpaired"
    assert export.manifest.student is None


def test_a_student_that_upscales(workshop, cpu):
    torch.manual_seed(0)
    save_network(
        workshop / "large.safetensors", initialize(SrvggNet(SrvggWidths.uniform(8, 4), scale=2))
    )
    generator = f'generator = "{workshop}/large.safetensors"'
    recipe = recipe_of(
        workshop, UPSCALE, method=IMITATE, teacher=generator, student=SMALL_UPSCALER, image_size=32
    )
    export, _ = run(recipe, cpu, workshop / "b" / "cpu" / "export", Silent())
    golden = GoldenPairs.read(export.golden)
    assert export.manifest.model.scale == 2
    assert golden.source.shape[1:3] == (32, 32)
    assert golden.target.shape[1:3] == golden.teacher.shape[1:3] == (64, 64)


def test_pruning_and_training_alternate(workshop, cpu):
    text = (workshop / "tiny.toml").read_text()
    (workshop / "tiny.toml").write_text(text.replace("[pruning]", "[pruning]\nrounds = 2"))
    export, _ = run(read(workshop), cpu, workshop / "b" / "cpu" / "export", Silent())
    train = workshop / "b" / "cpu" / "train"
    first, last = (load_state_widths(train / at) for at in ("round-1", "."))
    assert len(rows(train / "round-1" / "metrics.jsonl")) == 3
    assert len(rows(train / "metrics.jsonl")) == 3
    assert sum(first) > sum(last)
    assert export.manifest.teacher.macs / export.manifest.model.macs >= 2.0


def load_state_widths(folder):
    """Channels out of every convolution of the student in a state."""
    with safe_open(folder / "state.safetensors", framework="pt") as file:
        names = [n for n in file.keys() if n.startswith("network/student/0.")]  # noqa: SIM118
        return [file.get_slice(n).get_shape()[0] for n in names if n.endswith("weight")]


def test_a_size_that_does_not_suit_the_teacher_is_refused(workshop, cpu):
    text = (workshop / "tiny.toml").read_text()
    torch.manual_seed(0)
    unet = initialize(UnetGenerator(UnetWidths.uniform(4, 8)))
    save_network(workshop / "generator.safetensors", unet)
    (workshop / "tiny.toml").write_text(text)
    with pytest.raises(ValueError, match="image_size = 64 does not suit the teacher: a multiple"):
        run(read(workshop), cpu, workshop / "export", Silent())


def test_a_recipe_without_a_student_is_refused(workshop):
    text = (workshop / "tiny.toml").read_text()
    (workshop / "tiny.toml").write_text(
        text.replace('[pruning]\nmacs_reduction = 2.0\nimportance = "magnitude"\n', "")
    )
    with pytest.raises(ValueError, match=r"give \[pruning\] or \[student\], one of them"):
        read(workshop)
