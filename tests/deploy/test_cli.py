from __future__ import annotations

import json
import re

import pytest

from deploy.main import main
from deploy.show import unfinished

PROFILE = """
name = "{name}"
description = "a board of the tests"
architecture = "{architecture}"
backends = ["onnxruntime"]
execution_providers = ["CPUExecutionProvider"]
precisions = ["fp32"]
opset = 18
image_size = 32
threads = 1
memory_mib = 512
channel_multiple = 8
source = "made up"
[budget]
p50_ms = 10
p90_ms = 20
p99_ms = 30
"""


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def board(tmp_path, make_profile):
    """Writes the profile of this machine, or of one of another architecture."""

    def write(name, here=True):
        architecture = make_profile().architecture
        other = {"x86_64": "aarch64", "aarch64": "x86_64"}[architecture]
        path = tmp_path / f"{name}.toml"
        path.write_text(PROFILE.format(name=name, architecture=architecture if here else other))
        return path

    return write


def flat(text):
    return " ".join(text.split())


def failed(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main([str(arg) for arg in argv])
    assert exit.value.code == 2
    return flat(capsys.readouterr().err)


def test_inspect_shows_what_is_in_a_bundle(sealed_bundle, wide, capsys):
    assert main(["inspect", str(sealed_bundle.path)]) == 0
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines()) <= 100
    for part in (
        "tiny: paired, resnet, 32 x 32 pixels",
        "here: this machine",
        "0.09 M",
        "60.0 x fewer",
        "80.0 ms",
        "x faster",
        "30.00 dB, 0.9000",
        "29.50 dB, 0.8900",
        "to truth, 3 golden pairs",
        "openvino int8",
        "onnxruntime fp32",
        "nncf ",
        "may ship",
        "25 dB to the float student; at most 2 dB lost to the truth",
        "over 50 images",
        "p50 10, p90 20, p99 30 ms",
        "made from: export",
        sealed_bundle.digest,
        *sealed_bundle.manifest.sha256.values(),
    ):
        assert flat(part) in flat(said)
    assert [line for line in said.splitlines() if line.startswith("  >")]


def test_inspect_as_json_is_the_manifest(sealed_bundle, capsys):
    assert main(["inspect", str(sealed_bundle.path), "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest == json.loads((sealed_bundle.path / "manifest.json").read_text())
    assert manifest["teacher"]["torch_eager_p50_ms"] == 80.0


def test_deploy_on_the_device(sealed_export, board, tmp_path, wide, capsys, eager, monkeypatch):
    monkeypatch.setattr("deploy.pipeline.COMMAND", eager)
    out = tmp_path / "out" / "bundle"
    argv = ["deploy", sealed_export.path, "--device", board("desk"), "--out", out]
    assert main([str(arg) for arg in argv]) == 0
    said = flat(capsys.readouterr().out)
    for part in ("1/8 read", "2/8 pre-flight", "3/8 quantize", "8/8 seal"):
        assert part in said
    assert "tiny for desk: onnxruntime fp32, " in said
    assert "100.0 dB to the float student" in said
    assert "Not compiled" not in said

    assert main([str(arg) for arg in argv]) == 0
    assert "1/8 read up to date: " in flat(capsys.readouterr().out)
    assert main([*(str(arg) for arg in argv), "--force"]) == 0
    assert "8/8 seal" in flat(capsys.readouterr().out)


def test_deploy_elsewhere_says_what_finishes_it(sealed_export, board, tmp_path, wide, capsys):
    profile, out = board("moon", here=False), tmp_path / "a bundle"
    argv = ["deploy", str(sealed_export.path), "--device", str(profile), "--out", str(out)]
    for _ in range(2):  # an unfinished bundle says so every time
        assert main(argv) == 0
        said = flat(capsys.readouterr().out)
        assert "Not compiled, because this machine is not the device (it is " in said
        assert f"copy {sealed_export.path} (" in said
        assert f" and {profile} to the board and run there: pocketgan deploy " in said
        assert said.endswith(f"--device {profile} --out '{out}'")
    assert main(["inspect", str(out)]) == 0
    said = flat(capsys.readouterr().out)
    assert "not compiled yet, to be finished on the board" in said
    assert "budget" not in said


def test_what_finishes_a_bundle_is_one_sentence(sealed_export, tmp_path):
    sentence = unfinished(sealed_export.path, "jetson", tmp_path / "b", ["it is x86_64"])
    assert re.fullmatch(
        rf"Not compiled, because this machine is not the device \(it is x86_64\): copy "
        rf"{sealed_export.path} \([\d.]+ (KiB|MiB)\) to the board and run there: pocketgan deploy "
        rf"{sealed_export.path} --device jetson --out {tmp_path}/b",
        sentence,
    )


def test_an_unknown_device_answers_with_the_list(sealed_export, tmp_path, capsys):
    out = tmp_path / "bundle"
    said = failed(["deploy", sealed_export.path, "--device", "cpuu", "--out", out], capsys)
    assert said.startswith("pocketgan deploy: no device profile 'cpuu'; there are: cpu, ")
    assert "jetson" in said
    assert not out.exists()


def test_a_folder_that_is_no_export(tmp_path, capsys):
    argv = ["deploy", tmp_path, "--device", "cpu", "--out", tmp_path / "b"]
    assert "export.json is missing" in failed(argv, capsys)
    assert "manifest.json is missing" in failed(["inspect", tmp_path], capsys)


def test_a_profile_that_is_no_profile(sealed_export, tmp_path, capsys):
    wrong = tmp_path / "board.toml"
    wrong.write_text(PROFILE.format(name="b", architecture="x86_64").replace("opset", "opsett"))
    argv = ["deploy", sealed_export.path, "--device", wrong, "--out", tmp_path / "b"]
    assert "board.toml: " in failed(argv, capsys)
