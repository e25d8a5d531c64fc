"""Inventory files, and what may follow --on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devices.remote.inventory import Board, Inventory, choose, read_inventory, require_destination

LAB = """
ssh_config = "ssh_config"

[boards.pi]
destination = "pi@raspberrypi.local"
python = "~/pocketgan/bin/python"
profile = "raspberrypi5"
wheel = "dist/pocketgan-0.1.0-py3-none-any.whl"
mode = "normal"
timeout_s = 600
note = "on the shelf, active cooler"
env = { OMP_NUM_THREADS = "4" }

[boards.orin]
destination = "orin"
"""


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "ssh_config").touch()
    (tmp_path / "boards.toml").write_text(LAB)
    return tmp_path / "boards.toml"


def test_an_inventory_is_read_and_its_paths_begin_beside_it(lab):
    inventory = read_inventory(lab)
    assert inventory.ssh_config == lab.parent / "ssh_config"
    pi, orin = inventory.boards.values()
    assert pi.wheel == lab.parent / "dist" / "pocketgan-0.1.0-py3-none-any.whl"
    assert (pi.mode, pi.timeout_s, pi.env) == ("normal", 600.0, {"OMP_NUM_THREADS": "4"})
    assert orin == Board(destination="orin")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("python =", "pyhton =", r"unknown key 'boards\.pi\.pyhton'"),
        ('"~/pocketgan/bin/python"', '"-c"', r"boards\.pi\.python = '-c'"),
        ('"~/pocketgan/bin/python"', '"a\\nb"', r"boards\.pi\.python = 'a\\nb'"),
        ('"orin"', '"-oProxyCommand=x"', "'-oProxyCommand=x' is not a destination for ssh"),
        ("600", "0", r"boards\.pi\.timeout_s = 0"),
        ("600", '"600"', r"boards\.pi\.timeout_s = '600'"),
        ("600", "nan", r"boards\.pi\.timeout_s = nan"),
        ('"normal"', '"slow"', r"boards\.pi\.mode = 'slow'"),
        ("OMP_NUM_THREADS", '"A B"', "String should match pattern"),
        ("boards.orin", 'boards."-v"', "'-v' cannot be the name of a board"),
        ("boards.orin", "boards.all", "'all' cannot be the name of a board"),
        ('destination = "orin"', "", r"missing key 'boards\.orin\.destination'"),
        ('"ssh_config"', '"none"', "ssh_config = '.*none': there is no such file"),
    ],
)
def test_a_wrong_inventory_is_named_with_its_key(before, after, said, lab):
    assert before in LAB
    lab.write_text(LAB.replace(before, after))
    with pytest.raises(ValueError, match=said) as error:
        read_inventory(lab)
    assert str(lab) in str(error.value)


def test_every_key_is_documented_and_the_example_is_an_inventory(lab):
    page = (Path(__file__).parents[3] / "docs" / "boards.md").read_text()
    for key in (*Inventory.model_fields, *Board.model_fields):
        assert f"\n| `{key}` |" in page
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, flags=re.M | re.S)
    lab.write_text(example)
    assert set(read_inventory(lab).boards["pi"].model_fields_set) == set(Board.model_fields)


def test_no_inventory(tmp_path):
    with pytest.raises(ValueError, match=r"there is no inventory .*x\.toml"):
        read_inventory(tmp_path / "x.toml")


@pytest.mark.parametrize(
    "text",
    ["pi", "pi@10.0.0.7", "ssh://pi@board.lan:2222", "[fe80::1%eth0]", "fe80::1%eth0", "a_b-c.d"],
)
def test_destinations(text):
    assert require_destination(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-v",
        "-oProxyCommand=touch x",
        "pi@-v",
        "--",
        "a b",
        "a;b",
        "a|b",
        "$(a)",
        "`a`",
        "a'b",
        'a"b',
        "a\nb",
        "a&b",
        "a>b",
        "a\\b",
        "ssh://-v",
        "a/b",
        "a" * 256,
        "\u00e4",
        "a\n",
    ],
)
def test_what_is_no_destination(text):
    with pytest.raises(ValueError, match="is not a destination for ssh"):
        require_destination(text)


BOARDS = Inventory(
    boards={
        "pi": Board(destination="pi@lan", profile="raspberrypi5"),
        "orin": Board(destination="orin", profile="jetson"),
        "any": Board(destination="any"),
        "twin": Board(destination="pi@lan", profile="jetson"),
    }
)


def test_names_come_before_destinations():
    chosen = choose(["pi", "other@host"], BOARDS, "cpu")
    assert [each.name for each in chosen] == ["pi", "other@host"]
    assert [each.board.destination for each in chosen] == ["pi@lan", "other@host"]


def test_all_are_those_that_may_be_of_the_profile():
    assert [each.name for each in choose(["all"], BOARDS, "raspberrypi5")] == ["pi", "any"]
    only = Inventory(boards={"orin": BOARDS.boards["orin"]})
    with pytest.raises(ValueError, match="no board of the inventory is of the profile cpu"):
        choose(["all"], only, "cpu")
    with pytest.raises(ValueError, match="--on all wants an inventory"):
        choose(["all"], None, "cpu")
    with pytest.raises(ValueError, match="--on all stands alone"):
        choose(["all", "pi"], BOARDS, "cpu")


@pytest.mark.parametrize("hosts", [["pi", "twin"], ["pi", "pi"], ["pi", "pi@lan"], ["a", "a"]])
def test_a_board_is_measured_once_at_a_time(hosts):
    with pytest.raises(ValueError, match="two measurements at once on one board would disturb"):
        choose(hosts, BOARDS, "cpu")


def test_nobody():
    with pytest.raises(ValueError, match="--on names no board"):
        choose([], BOARDS, "cpu")
