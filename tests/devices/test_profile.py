import json
import re

import pytest
from pydantic import ValidationError

from devices.profile import (
    PROFILES,
    LatencyBudget,
    TensorRt,
    load_profile,
    profile_names,
    require_allowed,
)


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


JETSONS = [name for name in profile_names() if name.startswith("jetson")]


def test_the_promised_profiles_are_there():
    assert {"cpu", "jetson", "raspberrypi5"} <= set(profile_names())
    assert len(JETSONS) == 10


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


@pytest.mark.parametrize("name", profile_names())
def test_power_modes_run_from_slow_to_fast(name):
    modes = load_profile(name).power_modes
    watts = [mode.watts for mode in modes if mode.watts is not None]
    assert watts == sorted(watts)
    budgets = [mode.budget.p50_ms for mode in modes if mode.budget is not None]
    assert budgets == sorted(budgets, reverse=True)


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_builds_with_tensorrt_first(name):
    profile = load_profile(name)
    assert profile.backends == ("tensorrt", "onnxruntime")
    assert profile.execution_providers[0] == "TensorrtExecutionProvider"
    assert profile.tensorrt is not None
    assert ("int8" in profile.precisions) == profile.tensorrt.int8
    assert profile.tensorrt.workspace_mib < profile.memory_mib
    assert profile.tensorrt.version in profile.software
    assert not profile.tensorrt.use_dla
    assert profile.power_modes


def test_a_power_mode_may_have_a_budget_of_its_own():
    orin = load_profile("jetson-agx-orin-64gb")
    assert orin.budget_in("MODE_15W").p50_ms == 86.0
    assert orin.budget_in("MAXN") == orin.budget
    assert orin.budget_in(None) == orin.budget
    assert orin.budget_in("a mode of one's own") == orin.budget


def test_a_refused_profile_is_read_but_not_deployed_to():
    coral = load_profile("coral-edge-tpu")
    with pytest.raises(ValueError, match="coral-edge-tpu is refused: it runs only") as refused:
        require_allowed(coral)
    assert "choose another: cpu, jetson, " in str(refused.value)
    assert str(refused.value).count("coral") == 1
    require_allowed(load_profile("cpu"))


@pytest.mark.parametrize(
    ("capability", "has"),
    [("5.3", False), ("6.0", False), ("6.1", True), ("6.2", False), ("7.2", True), ("11.0", True)],
)
def test_which_gpus_have_int8(capability, has):
    assert TensorRt(version="10.3", compute_capability=capability, workspace_mib=1).int8 == has


def test_versions_are_numbers():
    older, newer = (
        TensorRt(version=version, compute_capability="8.7", workspace_mib=1)
        for version in ("10.3", "10.12")
    )
    assert older.number < newer.number


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


@pytest.fixture
def orin(tmp_path):
    """Writes a Jetson's profile with one line changed."""

    def edit(old: str, new: str):
        text = (PROFILES / "jetson-orin-nx-16gb.toml").read_text()
        assert old in text
        path = tmp_path / "orin.toml"
        path.write_text(text.replace(old, new, 1))
        return path

    return edit


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"8.7"', '"6.2"', "precisions has 'int8', and compute capability 6.2 has none; take it"),
        ('"8.7"', '"orin"', r"tensorrt\.compute_capability = 'orin': .*pattern"),
        ('"10.3"', '"latest"', r"tensorrt\.version = 'latest': .*pattern"),
        ("dla_cores = 2", "dla_cores = -1", r"tensorrt\.dla_cores = -1"),
        ('name = "15W"', 'name = "10W"', "power_modes has '10W' twice"),
        ('["int8", "fp16", "fp32"]', "[]", "precisions = .. leaves nothing to build"),
        ('["tensorrt", "onnxruntime"]', "[]", "backends = .. leaves nothing to run on; name one"),
        (
            '["TensorrtExecutionProvider", "CUDAExecutionProvider"]',
            "[]",
            r"onnxruntime needs execution_providers; the least is .'CPUExecutionProvider'.",
        ),
    ],
)
def test_a_profile_that_contradicts_itself(orin, old, new, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_profile(orin(old, new))
    assert "{" not in str(raised.value), "a sentence, not a dump of the profile"


def test_tensorrt_without_its_table(edited):
    with pytest.raises(ValueError, match=r"board\.toml: tensorrt in backends needs the table"):
        load_profile(edited('["openvino", ', '["tensorrt", '))


def test_options_of_a_provider_that_is_not_there(edited):
    path = edited("[budget]", '[provider_options.QNNExecutionProvider]\nx = "1"\n\n[budget]')
    with pytest.raises(ValueError, match="provider_options is for QNNExecutionProvider, which"):
        load_profile(path)


def test_a_dla_that_is_not_there(orin):
    path = orin("dla_cores = 2", "dla_cores = 0")
    path.write_text(path.read_text().replace("use_dla = false", "use_dla = true"))
    with pytest.raises(ValueError, match=r"tensorrt: use_dla = true .* dla_cores = 0; leave"):
        load_profile(path)


def test_a_dla_computes_in_two_precisions_only(orin):
    path = orin('["int8", "fp16", "fp32"]', '["fp32"]')
    path.write_text(path.read_text().replace("use_dla = false", "use_dla = true"))
    with pytest.raises(ValueError, match="use_dla = true needs 'fp16' or 'int8' in precisions"):
        load_profile(path)


@pytest.mark.parametrize("budget", [(3, 2, 4), (1, 4, 3)])
def test_a_budget_out_of_order(budget):
    values = dict(zip(("p50_ms", "p90_ms", "p99_ms"), budget, strict=True))
    with pytest.raises(ValidationError, match="p50 <= p90 <= p99"):
        LatencyBudget.model_validate_json(json.dumps(values))
