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

from compress.checkpoints import load_network
from compress.export import to_onnx
from compress.pipeline import run
from compress.recipe import CompressRecipe, TrainRecipe, load_recipe
from compress.teacher import train_teacher
from deploy.artifacts import GoldenPairs, StudentExport
from deploy.imaging import to_model
from devices.profile import load_profile
from devices.sealed import digest
from tests.compress.conftest import Silent, furnish, tiny_generator


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
