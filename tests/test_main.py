"""The program: its table of commands, and what it says when something is wrong."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from deploy.main import COMMANDS, main


@pytest.fixture
def a_room(monkeypatch):
    """Lets a test put a command behind ``pocketgan inspect`` without entering a real room."""

    def furnish(run):
        room = types.ModuleType("deploy.cli")
        room.add_arguments = lambda name, parser: parser.add_argument("bundle")
        room.run = run
        monkeypatch.setitem(sys.modules, "deploy.cli", room)

    return furnish


def test_every_command_is_in_the_help(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(COMMANDS) <= listed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: pocketgan {name} ")
    assert "--help" in said


@pytest.mark.parametrize("argv", [["transform"], ["Deploy"]])
def test_an_unknown_command_answers_with_the_list(argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert repr(argv[0]) in said
    for name in COMMANDS:
        assert name in said


def test_no_command_answers_with_the_usage(capsys):
    with pytest.raises(SystemExit) as exit:
        main([])
    assert exit.value.code == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err


def test_an_unknown_option_is_named(a_room, capsys):
    a_room(lambda name, options: 0)
    with pytest.raises(SystemExit) as exit:
        main(["inspect", "b", "--colour"])
    assert exit.value.code == 2
    assert "unrecognized arguments: --colour" in capsys.readouterr().err


def test_the_status_of_the_command_is_the_status_of_the_program(a_room):
    a_room(lambda name, options: 1 if options.bundle == "slow" else 0)
    assert main(["inspect", "slow"]) == 1
    assert main(["inspect", "fast"]) == 0


@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError, FloatingPointError])
def test_what_a_user_can_mend_is_said_in_one_line(kind, a_room, capsys):
    def run(name, options):
        raise kind("image_size = -1: must be positive; 256 is usual")

    a_room(run)
    with pytest.raises(SystemExit) as exit:
        main(["inspect", "b"])
    assert exit.value.code == 2
    assert (
        capsys.readouterr().err
        == "pocketgan inspect: image_size = -1: must be positive; 256 is usual\n"
    )


def test_a_mistake_of_ours_keeps_its_traceback(a_room):
    def run(name, options):
        raise KeyError("ours")

    a_room(run)
    with pytest.raises(KeyError, match="ours"):
        main(["inspect", "b"])


def test_an_interrupt_leaves_with_130(a_room, capsys):
    def run(name, options):
        raise KeyboardInterrupt

    a_room(run)
    with pytest.raises(SystemExit) as exit:
        main(["inspect", "b"])
    assert exit.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def in_a_house_without(package: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a fresh interpreter in which ``package`` is not installed."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from deploy.main import main; raise SystemExit(main({list(argv)!r}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("package", "argv", "extra"),
    [
        ("torch", ["compress", "restore", "--device", "cpu", "--out", "never"], "compress"),
        ("torch", ["train", "restore-teacher", "--out", "never"], "compress"),
        ("fastapi", ["serve", "some/bundle"], "serving"),
    ],
)
def test_a_missing_extra_is_named_with_its_cure(package, argv, extra, tmp_path):
    ran = in_a_house_without(package, *(str(tmp_path / a) if a == "never" else a for a in argv))
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr == (
        f"pocketgan {argv[0]} needs {package}: pip install 'pocketgan[{extra}]'\n"
    )
    assert not (tmp_path / "never").exists()


def test_a_module_of_our_own_that_is_missing_is_no_missing_extra(a_room):
    def run(name, options):
        raise ModuleNotFoundError("No module named 'deploy.attic'", name="deploy.attic")

    a_room(run)
    with pytest.raises(ModuleNotFoundError, match="attic"):
        main(["inspect", "b"])


@pytest.mark.parametrize(
    "argv",
    [
        ["deploy", "no/such/export", "--device", "cpu", "--out", "never"],
        ["inspect", "no/such/bundle"],
        ["check", "no/such/bundle"],
        ["serve", "no/such/bundle"],
        ["gate", "--baseline", "no/such/bundle", "--candidate", "no/such/bundle"],
    ],
)
def test_a_path_that_is_not_there_is_named(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    assert "no/such/" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["compress", "restore", "--device", "jetsen", "--out", "never"],
    ],
)
def test_a_wrong_device_answers_with_the_list(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(argv)
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert "no device profile 'jetsen'; there are: " in said
    assert "jetson" in said


def test_a_wrong_recipe_answers_with_the_list(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["compress", "restor", "--device", "cpu", "--out", "never"])
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert "'restor'" in said
    assert "restore" in said.replace("'restor'", "")
