import json
import re

import pytest
from pydantic import ValidationError

from devices.profile import PROFILES, LatencyBudget, load_profile, profile_names


@pytest.fixture
def edited(tmp_path):
    """Writes the cpu profile with one line changed."""

    def edit(old: str, new: str):
        text = (PROFILES / "cpu.toml").read_text()
        assert old in text
        path = tmp_path / "board.toml"
        path.write_text(text.replace(old, new, 1))
        return path

    return edit


def test_the_promised_profiles_are_there():
    assert {"cpu", "jetson", "raspberrypi5"} <= set(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_is_named_after_its_file(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.image_size % 32 == 0


@pytest.mark.parametrize("name", profile_names())
def test_every_number_of_a_profile_has_a_unit_or_source_beside_it(name):
    for line in (PROFILES / f"{name}.toml").read_text().splitlines():
        if re.match(r"\w+ = \d", line):
            assert re.search(r"#.*\w", line), line


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_survives_the_manifest(name):
    profile = load_profile(name)
    assert type(profile).model_validate_json(profile.model_dump_json()) == profile


def test_one_student_serves_every_profile():
    assert {load_profile(name).channel_multiple for name in profile_names()} == {8}


def test_power_modes_run_from_slow_to_fast():
    watts = [mode.watts for mode in load_profile("jetson").power_modes]
    assert watts == sorted(watts)


def test_an_unknown_profile_lists_the_known():
    with pytest.raises(ValueError, match=r"no device profile 'toaster'; there are: cpu, jetson"):
        load_profile("toaster")


def test_a_profile_of_ones_own_is_read_by_path(edited):
    path = edited('name = "cpu"', 'name = "board"')
    assert load_profile(path).name == "board"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_size", "image_sise", r"unknown key 'image_sise'; did you mean 'image_size'\?"),
        ("p50_ms", "p50", r"unknown key 'budget\.p50'; did you mean 'p50_ms'\?"),
        ("threads = 2", "threads = '2'", r"threads = '2': .*valid integer"),
        ("threads = 2", "threads = 0", r"threads = 0: .*greater than 0"),
        ("opset = 18", "", r"missing key 'opset'"),
        ('["openvino", ', '["tvm", ', r"backends\.0 = 'tvm'"),
        ("[budget]", "[budget", r"board\.toml: .*line \d+"),
        ("p50_ms = 30.0", "p50_ms = 300.0", r"p50 <= p90 <= p99, got 300\.0 / 45\.0 / 90\.0 ms"),
    ],
)
def test_a_wrong_profile_is_told_apart(edited, old, new, message):
    path = edited(old, new)
    with pytest.raises(ValueError, match=message) as raised:
        load_profile(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("budget", [(3, 2, 4), (1, 4, 3)])
def test_a_budget_out_of_order(budget):
    values = dict(zip(("p50_ms", "p90_ms", "p99_ms"), budget, strict=True))
    with pytest.raises(ValidationError, match="p50 <= p90 <= p99"):
        LatencyBudget.model_validate_json(json.dumps(values))
