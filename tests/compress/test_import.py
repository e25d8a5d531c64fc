"""``pocketgan import`` from a file to a folder and a report."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from compress.checkpoints import load_network, save_network
from compress.importing.report import ImportReport, render
from compress.importing.run import parse_architecture, run
from compress.measures.pixels import psnr
from deploy import imaging
from deploy.main import main
from devices.sealed import digest
from tests.compress.test_import_layouts import answers, assert_same, made


@pytest.fixture
def gcc(tmp_path):
    """What GCC saves for pix2pix and for CycleGAN."""
    g, d = made("mobile gcc").state_dict(), made("patchgan instance").state_dict()
    cfg = ([1], [2])
    torch.save({"G": g, "D": d, "epoch": 1, "cfg": cfg, "fid": 2.5}, tmp_path / "pix2pix.pth")
    both = {"G_A": g, "G_B": g, "D_A": d, "D_B": d, "epoch": 1, "cfg": cfg, "fid": 2.5}
    torch.save(both, tmp_path / "cycle.pth")
    return tmp_path


def test_a_generator_and_its_report(tmp_path):
    path, out = tmp_path / "latest_net_G.pth", tmp_path / "out"
    published = {f"module.{key}": tensor for key, tensor in made("resnet-6").state_dict().items()}
    torch.save(published, path)
    report = run(path, out)
    assert_same(made("resnet-6"), load_network(out / "generator.safetensors"))
    assert report == ImportReport.model_validate_json((out / "import.json").read_text())
    (network,) = report.networks
    assert report.source == {"latest_net_G.pth": digest(path)}
    assert report.torch == torch.__version__
    assert network.sha256 == digest(out / network.file)
    assert network.role == "generator"
    assert network.keys["model.1.weight"] == "module.model.1.weight"
    assert len(network.keys) == len(published)
    assert network.taps == ("model.9", "model.12", "model.15")
    assert network.params == sum(p.numel() for p in made("resnet-6").parameters())
    assert 0 < network.macs < network.macs_published


def test_the_report_for_people_folds_long_lists(tmp_path):
    published = {f"module.{key}": tensor for key, tensor in made("mobile").state_dict().items()}
    torch.save(
        {"net": published | {"module.total_ops": torch.zeros(1)}, "epoch": 9}, tmp_path / "a"
    )
    report = run(tmp_path / "a", tmp_path / "out")
    console = Console(file=io.StringIO(), width=100)
    console.print(render(report))
    said = console.file.getvalue()
    count = len(published)
    assert "generator mobile, names of GAN Compression, OMGD and GCC" in said
    assert f"{count} matched, {count} of them renamed" in said
    assert "module.model.1.weight -> model.1.weight" in said
    assert f"... and {count - 8} more" in said
    assert "inner    [16 x 9]" in said
    assert "1: a count that thop left behind: module.total_ops" in said
    assert "no tensor, but 9: epoch" in said
    assert "as papers count them" in said


def test_a_name_in_square_brackets_is_no_markup(tmp_path):
    torch.save({"[/bold]": made("srvgg x2").state_dict(), "[red]": 1}, tmp_path / "a")
    console = Console(file=io.StringIO(), width=100)
    console.print(render(run(tmp_path / "a", tmp_path / "out")))
    assert "[/bold]: generator srvgg" in console.file.getvalue()


def test_of_a_pair_the_generator_is_taken(gcc):
    report = run(gcc / "pix2pix.pth", gcc / "out")
    assert [network.file for network in report.networks] == ["generator.safetensors"]
    assert report.left_out["D"] == "a discriminator; take it with --network D"
    assert report.left_out["fid"] == "no tensor, but 2.5"
    assert not (gcc / "out" / "discriminator.safetensors").exists()


def test_both_of_a_pair(gcc):
    report = run(gcc / "pix2pix.pth", gcc / "out", networks=["G", "D"])
    assert {network.role: network.file for network in report.networks} == {
        "generator": "generator.safetensors",
        "discriminator": "discriminator.safetensors",
    }
    assert_same(made("patchgan instance"), load_network(gcc / "out" / "discriminator.safetensors"))


def test_several_of_a_kind_have_folders(gcc):
    report = run(gcc / "cycle.pth", gcc / "out")
    assert [network.file for network in report.networks] == [
        "G_A/generator.safetensors",
        "G_B/generator.safetensors",
    ]
    assert_same(made("mobile gcc"), load_network(gcc / "out" / "G_B" / "generator.safetensors"))
    report = run(gcc / "cycle.pth", gcc / "out", networks=["D_A"])
    assert [network.file for network in report.networks] == ["discriminator.safetensors"]
    assert report.left_out["G_A"] == "not asked for; take it with --network G_A"
    assert not (gcc / "out" / "G_B").exists()


def test_a_network_that_is_not_there_is_answered_with_those_that_are(gcc):
    with pytest.raises(ValueError, match=r"no network 'G_C'; it has G_A, G_B, D_A, D_B"):
        run(gcc / "cycle.pth", gcc / "out", networks=["G_C"])
    torch.save(made("srvgg x2").state_dict(), gcc / "one.pth")
    with pytest.raises(ValueError, match="holds one network; leave --network G out"):
        run(gcc / "one.pth", gcc / "out", networks=["G"])
    assert not (gcc / "out").exists()


def test_no_generator_among_several(tmp_path):
    content = {"D": made("patchgan instance").state_dict(), "E": {"x": torch.zeros(1)}}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"(?s)no generator among them.*D: a discriminator.*E: not"
    ):
        run(tmp_path / "a.pth", tmp_path / "out")


@pytest.mark.parametrize("name", ["srgan discriminator", "shared", "gated", "rrdb x2"])
def test_costs_of_networks_with_habits(tmp_path, name):
    """Of a fixed size, of several heads, of folded pixels."""
    torch.save(made(name).state_dict(), tmp_path / "a.pth")
    (network,) = run(tmp_path / "a.pth", tmp_path / "out").networks
    assert network.macs > 0
    assert network.spec == made(name).spec


def test_our_own_files_say_what_they_are(tmp_path):
    """A threshold is in no tensor; the header of our files has it."""
    network = made("gated").__class__(3, 4, threshold=0.1)
    save_network(tmp_path / "own.safetensors", network, half=True)
    (imported,) = run(tmp_path / "own.safetensors", tmp_path / "out").networks
    assert imported.spec == network.spec


def test_an_import_replaces_an_import_and_nothing_else(tmp_path):
    torch.save(made("srvgg x2").state_dict(), tmp_path / "a.pth")
    out = tmp_path / "out"
    run(tmp_path / "a.pth", out)
    run(tmp_path / "a.pth", out)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dear.jpg").touch()
    with pytest.raises(ValueError, match=r"is in the way: it holds no import\.json"):
        run(tmp_path / "a.pth", tmp_path / "photos")
    assert (tmp_path / "photos" / "dear.jpg").exists()


@pytest.mark.parametrize("suffix", [".json", ".toml", "inline json", "inline toml", "family"])
def test_ways_to_say_what_a_network_is(tmp_path, suffix):
    text = {
        ".json": '{"family": "unet"}',
        ".toml": 'family = "unet"',
        "inline json": '{"family": "unet"}',
        "inline toml": 'family = "unet"',
        "family": "unet",
    }[suffix]
    if suffix.startswith("."):
        path = tmp_path / f"said{suffix}"
        path.write_text(text)
        text = str(path)
    assert parse_architecture(text) == {"family": "unet"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vgg", "unknown network family 'vgg'; known: cartoon, "),
        ('{"family": ', "is not JSON or TOML"),
        ("family = ", "is not JSON or TOML"),
        ("{1: 2}", "is not JSON or TOML"),
    ],
)
def test_an_architecture_that_cannot_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        parse_architecture(text)


def test_an_architecture_that_is_a_list(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not a table"):
        parse_architecture(str(tmp_path / "a.json"))


def test_a_whole_specification_is_checked_against_the_tensors(tmp_path):
    torch.save(made("srvgg x2").state_dict(), tmp_path / "a.pth")
    spec = made("srvgg x2").spec
    run(tmp_path / "a.pth", tmp_path / "out", architecture=json.dumps(spec))
    wider = spec | {"widths": {"body": [8, 8, 8]}}
    with pytest.raises(
        ValueError, match=r"a\.pth: .*of a srvgg network.*body\.0\.weight is \(4, 3"
    ):
        run(tmp_path / "a.pth", tmp_path / "out", architecture=json.dumps(wider))


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(made("unet").state_dict(), "latest_net_G.pth")
    assert main(["import", "latest_net_G.pth", "--out", "teacher"]) == 0
    said = capsys.readouterr().out
    assert "generator unet" in said
    assert said.splitlines()[-2:] == ["teacher/generator.safetensors", "teacher/import.json"]
    with pytest.raises(SystemExit) as exit:
        main(["import", "latest_net_G.pth", "--out", "other", "--architecture", "resnet"])
    assert exit.value.code == 2
    assert "pocketgan import: latest_net_G.pth: " in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_cartoongan_draws(shared_data, tmp_path):
    """The published file is recognised, draws lines, and wants its channels as they were."""
    file = shared_data / "cartoongan_hayao" / "cartoongan_hayao_fp16.safetensors"
    report = run(file, tmp_path / "out")
    (network,) = report.networks
    assert network.spec["family"] == "cartoon"
    assert (network.params, network.layout) == (11_129_667, "CartoonGAN")
    assert any("BGR" in note for note in report.notes)
    generator = load_network(tmp_path / "out" / "generator.safetensors").eval()
    photo = sorted((shared_data / "photos").glob("*.jpg"))[1]
    pixels = imaging.read_image(photo)[::16, ::16][:96, :96]
    with torch.inference_mode():
        drawn = imaging.from_model(generator(torch.from_numpy(imaging.to_model(pixels))).numpy())[0]
    assert drawn.std() > 20
    assert np.corrcoef(drawn.mean(2).ravel(), pixels.mean(2).ravel())[0, 1] > 0.6
    assert psnr(drawn, pixels) < 25
    assert answers(generator).shape == (2, 3, 32, 32)
