"""The script that runs on a board, as far as it can be tried without one."""

from __future__ import annotations

import ast
import shlex
import sys
from pathlib import Path

import pytest

from devices.remote import far_side
from devices.remote.probe import Probe, require_room, require_suited
from devices.remote.words import REMOTE, BoardError, command, one_line
from devices.sealed import read_sealed

SOURCE = Path(far_side.__file__).read_text()


def test_it_can_be_read_by_the_oldest_python_there_is():
    tree = ast.parse(SOURCE, feature_version=(3, 6))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported <= sys.stdlib_module_names
    assert "__future__" not in imported  # its annotations came in 3.7
    assert SOURCE.isascii()


def test_the_words_for_the_other_side_are_the_same_for_every_board(monkeypatch, tmp_path):
    for destination in ("pi", "ssh://pi@host:2222"):
        words = command(destination, tmp_path / "config")
        assert words[-3:] == ["--", destination, REMOTE]
        assert words[1:3] == ["-F", str(tmp_path / "config")]
        for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no"):
            assert words[words.index(option) - 1] == "-o"
    # the login shell may be any: nothing in it means something else to one of them
    shell, flag, inner = shlex.split(REMOTE)
    assert (shell, flag) == ("sh", "-c")
    assert "'" not in inner
    assert not set("!\n") & set(REMOTE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BoardError, match="install the package openssh-client"):
        command("pi", None)


def test_the_folder_of_somebody_else_is_left_alone(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert far_side.remove_old(str(other)) == f"{other} is no folder of ours"
    link = tmp_path / f"{far_side.PREFIX}link"
    link.symlink_to(other)
    assert far_side.remove_old(str(link)) == f"{link} is no folder of ours"
    own = tmp_path / f"{far_side.PREFIX}own"
    (own / "a").mkdir(parents=True)
    assert far_side.remove_old(str(own)) == ""
    assert far_side.remove_old(str(own)) == ""  # it was removed meanwhile
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", link.name]


@pytest.fixture
def probe(profile):
    return Probe(
        folder="/tmp/pocketgan-check-abcd1234",
        python=(3, 11, 2),
        architecture=profile.architecture,
        board=None,
        free_mib=10_000,
        pocketgan=None,
    )


def test_a_board_that_does_not_suit(probe, make_bundle, profile):
    sealed = read_sealed(make_bundle())
    require_suited(probe, sealed)
    old = probe.model_copy(update={"python": (3, 8, 10)})
    with pytest.raises(BoardError, match=r"its Python is 3\.8\.10 and pocketgan wants 3\.11"):
        require_suited(old, sealed)
    with pytest.raises(BoardError, match=r"it is riscv64, cpu is "):
        require_suited(probe.model_copy(update={"architecture": "riscv64"}), sealed)
    own = read_sealed(make_bundle("own", profile=profile.model_copy(update={"board": "Kiosk"})))
    with pytest.raises(BoardError, match="it calls itself nothing, cpu is a Kiosk"):
        require_suited(probe, own)
    require_suited(probe.model_copy(update={"board": "Kiosk rev 2"}), own)


def test_a_full_disk(probe):
    with pytest.raises(BoardError, match=r"it has 10 MiB free in /tmp and 64 are needed.*TMPDIR"):
        require_room(probe.model_copy(update={"free_mib": 10}), [])


def test_what_a_board_says_is_safe_to_print():
    assert one_line("a\n  b \x1b[31mred\x07 \n\n") == "b [31mred"
    assert one_line("\u200b\n") == ""
    assert len(one_line("x" * 1000)) == 300
