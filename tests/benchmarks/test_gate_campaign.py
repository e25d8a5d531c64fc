"""The campaign that measures the gate: what it keeps and counts; its machine takes no time."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper

from devices.gate.report import Once
from devices.machine import Machine
from devices.profile import load_profile
from devices.sealed import MANIFEST, digest, seal_text
from devices.session import DeviceError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "gate"
MACHINE = Machine(
    cpu="Test CPU",
    architecture="x86_64",
    cores=2,
    memory_mib=8000,
    system="Linux 6.1",
    runtimes={"onnxruntime": "1.0"},
)


@pytest.fixture
def modules(monkeypatch):
    """The campaign's modules, without a neighbour and without waiting."""
    monkeypatch.syspath_prepend(str(FOLDER))
    campaign, ledger = map(importlib.import_module, ("campaign", "ledger"))
    monkeypatch.setattr(campaign, "SETTLE_S", 0.0)
    monkeypatch.setattr(campaign, "surroundings", lambda condition, how: Nobody(condition))
    yield campaign, ledger
    for name in ("campaign", "ledger", "neighbour", "processor"):
        sys.modules.pop(name, None)


class Nobody:
    """Beside a busy machine stands this very process."""

    def __init__(self, condition):
        self.condition = condition

    def __enter__(self):
        return os.getpid() if self.condition == "busy" else None

    def __exit__(self, *_):
        return None


class Pretended:
    """5 ms an image and 2 us for each unit of work; fails or is interrupted where told.

    So much work is free: a scheduler takes the time from threads that wait anyway.
    """

    def __init__(self, fails_at=(), stops_at=None, free=0):
        self.calls = 0
        self.free = free
        self.fails_at = fails_at
        self.stops_at = stops_at
        self._rng = np.random.default_rng(0)

    def __call__(self, bundle, *, work=0):
        self.calls += 1
        if self.calls == self.stops_at:
            raise KeyboardInterrupt
        if self.calls in self.fails_at:
            raise DeviceError("measuring failed with status 1: out of memory")
        median = (5 + 0.002 * max(0, work - self.free)) * np.exp(self._rng.normal(0, 0.005))
        return Once(
            machine=MACHINE,
            cold_ms=500.0,
            load_ms=100.0,
            first_ms=10.0,
            samples_ms=(median, median, median),
            peak_rss_mib=100.0,
        )


@pytest.fixture
def bundle(tmp_path):
    """A sealed bundle with as much in it as a stopwatch reads; its engine makes negatives."""
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 16, 16])
        for name in ("input", "output")
    ]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Neg", ["input"], ["output"])], "negative", images[:1], images[1:]
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "engine.onnx").write_bytes(model.SerializeToString())
    here = {"architecture": platform.machine(), "image_size": 16, "threads": 1}
    manifest = {
        "schema_version": 1,
        "engine_file": "engine.onnx",
        "compiled": True,
        "backend": "onnxruntime",
        "precision": "fp32",
        "profile": load_profile("cpu").model_copy(update=here).model_dump(mode="json"),
        "sha256": {"engine.onnx": digest(folder / "engine.onnx")},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    seal = seal_text(digest(folder / MANIFEST), MANIFEST)
    (folder / f"{MANIFEST}.sha256").write_text(seal)
    return folder


def test_the_kinds_take_turns_and_everything_is_kept(modules, bundle, tmp_path, capsys):
    campaign, ledger = modules
    out = tmp_path / "out"
    campaign.main(
        [str(bundle), "--out", str(out), "--count", "idle-aa=2,busy-slow=1,busy-aa=2"], Pretended()
    )
    lines = ledger.gates_in(out)
    assert [line.kind for line in lines] == [
        "idle-aa",
        "busy-slow",
        "busy-aa",
        "idle-aa",
        "busy-aa",
    ]
    assert [line.verdict for line in lines] == ["pass", "slower", "pass", "pass", "pass"]
    slow = lines[1]
    assert slow.called == ("steady",)
    assert slow.numbers.injected == pytest.approx(0.1, abs=0.02)
    assert slow.neighbours.own is not None
    assert lines[0].neighbours.own is None
    processes = list(ledger.processes_of(out, slow))
    assert len(processes) == 2 * slow.rounds
    assert [one.side for one in processes[:4]] == [
        "candidate",
        "baseline",
        "baseline",
        "candidate",
    ]
    assert {one.work for one in processes} == {0, slow.units}
    assert {one.condition for one in processes} == {"busy"}
    assert processes[0].at_s >= round(slow.at_s, 3) > 0
    text = capsys.readouterr().out
    assert "False alarms: 0 of 4 (0.0%), at most 52.71% with 95 % confidence." in text
    assert "busy-slow: caught 1 of 1 (100.0%), at least 5.0% with 95 % confidence" in text


def test_it_goes_on_where_it_was_stopped(modules, bundle, tmp_path, capsys):
    campaign, ledger = modules
    out = tmp_path / "out"
    command = [str(bundle), "--out", str(out), "--count", "idle-aa=3"]
    campaign.main(command, Pretended(stops_at=14 + 5))  # one gate, part of one
    assert "stopped; the same command goes on" in capsys.readouterr().out
    assert len(ledger.gates_in(out)) == 1
    setup = (out / "campaign.json").read_text()
    campaign.main(command, Pretended())
    assert [line.gate for line in ledger.gates_in(out)] == [0, 1, 2]
    assert (out / "campaign.json").read_text() == setup


def test_no_gate_begins_when_the_time_is_over(modules, bundle, tmp_path):
    campaign, ledger = modules
    campaign.main([str(bundle), "--out", str(tmp_path / "out"), "--minutes", "0"], Pretended())
    assert ledger.gates_in(tmp_path / "out") == []


def test_a_gate_that_fails_is_kept_as_one(modules, bundle, tmp_path, capsys):
    campaign, ledger = modules
    out = tmp_path / "out"
    measure = Pretended(fails_at=(4,))
    campaign.main([str(bundle), "--out", str(out), "--count", "idle-aa=2"], measure)
    first, second = ledger.gates_in(out)
    assert (first.verdict, first.numbers, second.verdict) == ("failed", None, "pass")
    assert first.reason == "measuring failed with status 1: out of memory"
    assert len(list(ledger.processes_of(out, first))) == 3
    assert "| idle-aa | 2 | 0 | 1 | 0 | 1 |" in capsys.readouterr().out


def test_three_failures_in_a_row_end_it(modules, bundle, tmp_path):
    campaign, ledger = modules
    out = tmp_path / "out"
    measure = Pretended(fails_at=range(37, 1000))
    with pytest.raises(SystemExit, match="3 gates in a row failed"):
        campaign.main([str(bundle), "--out", str(out)], measure)
    assert len(ledger.gates_in(out)) == 3


def test_a_curve_says_what_work_really_does(modules, bundle, tmp_path, capsys):
    campaign, _ = modules
    command = [str(bundle), "--out", str(tmp_path / "out"), "--curve", "250,500"]
    campaign.main(command, Pretended(free=300))
    lines = capsys.readouterr().out.splitlines()
    found = [float(re.search(r": ([+-][0-9.]+)%", line)[1]) for line in lines]
    assert found == pytest.approx([0.0, 8.0], abs=0.5)


def test_work_can_be_given_where_it_cannot_be_calibrated(modules, bundle, tmp_path):
    campaign, ledger = modules
    out = tmp_path / "out"
    command = [str(bundle), "--out", str(out), "--units", "800", "--count", "busy-slow=1"]
    campaign.main(command, Pretended(free=300))
    (line,) = ledger.gates_in(out)
    assert line.units == 800
    assert line.numbers.injected == pytest.approx(0.2, abs=0.02)


def test_beside_others_there_is_no_idle_kind(modules, bundle, tmp_path, capsys):
    campaign, ledger = modules
    command = [str(bundle), "--out", str(tmp_path / "out"), "--others"]
    with pytest.raises(SystemExit):
        campaign.main([*command, "--count", "idle-aa=1"], Pretended())
    assert "no idle kind can run beside them" in capsys.readouterr().err
    campaign.main([*command, "--count", "busy-aa=1"], Pretended())
    assert [line.kind for line in ledger.gates_in(tmp_path / "out")] == ["busy-aa"]


def test_another_slow_down_wants_another_folder(modules, bundle, tmp_path):
    campaign, _ = modules
    command = [str(bundle), "--out", str(tmp_path / "out"), "--count", "idle-aa=1"]
    campaign.main(command, Pretended())
    with pytest.raises(SystemExit, match=r"begun with --slowdown 0.1 .* take another --out"):
        campaign.main([*command, "--slowdown", "0.2"], Pretended())


@pytest.mark.parametrize("text", ["idle=3", "idle-aa", "idle-aa=x", ""])
def test_a_count_that_is_none_is_refused(modules, text, capsys):
    campaign, _ = modules
    with pytest.raises(SystemExit):
        campaign.main(["bundle", "--out", "out", "--count", text], Pretended())
    assert "is no KIND=N; kinds: idle-aa, busy-aa, idle-slow, busy-slow" in capsys.readouterr().err


def test_an_alarm_is_named_in_the_report(modules, bundle, tmp_path):
    campaign, ledger = modules
    out = tmp_path / "out"
    campaign.main([str(bundle), "--out", str(out), "--count", "idle-aa=1"], Pretended())
    [line] = ledger.gates_in(out)
    alarm = line.model_copy(
        update={"verdict": "slower", "called": ("cold",), "reason": "cold start +30%", "gate": 1}
    )
    text = ledger.table([line, alarm])
    assert "False alarms: 1 of 2 (50.0%), at most 97.47%" in text
    assert "Alarm in gate 1 (idle-aa, cold): cold start +30%." in text


def test_others_are_all_but_the_campaign_and_its_neighbour(modules):
    processor = importlib.import_module("processor")

    def used(at_s, everyone_s, own_s, neighbour_s, steal_s=0.0):
        return processor.Used(processor.CpuUse(at_s, everyone_s, own_s), steal_s, neighbour_s)

    seen = processor.neighbours(
        used(0, 0, 0, 0), used(1, 1.5, 0, 1), used(11, 22.5, 8, 10, 2), with_own=True
    )
    assert seen.before == pytest.approx(0.5)
    assert seen.others == pytest.approx(0.4)  # 21 in all, 8 the gate, 9 the neighbour
    assert seen.own == pytest.approx(0.9)
    assert seen.steal == pytest.approx(0.2)


def test_a_neighbour_works_until_its_time_is_over():
    before = os.times()
    subprocess.run([sys.executable, str(FOLDER / "neighbour.py"), "--seconds", "0.3"], check=True)
    after = os.times()
    assert after.children_user - before.children_user > 0.1


def test_a_neighbour_ends_with_who_started_it():
    script = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]); "
        "held = importlib.import_module('neighbour').neighbour(); "
        "print(held.__enter__(), flush=True); "
        "__import__('os')._exit(0)"  # as if it was killed: nothing is cleaned up
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(FOLDER)], stdout=subprocess.PIPE, text=True, check=True
    )
    pid, deadline = int(done.stdout), time.monotonic() + 10
    while works(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not works(pid)


def works(pid: int) -> bool:
    """Whether a process lives; one that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_neighbour_is_gone_after_its_while(modules):
    with importlib.import_module("neighbour").neighbour("--bursts") as pid:
        assert psutil.Process(pid).is_running()
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_the_program_calibrates_itself_with_a_copy_of_the_code(bundle, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, FOLDER / "campaign.py", bundle, "--out", out, "--short"]
    done = subprocess.run(
        [*map(str, command), "--minutes", "0"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^busy: 10% are [1-9]\d* units of work$", done.stdout, re.M)
    assert list(json.loads((out / "campaign.json").read_text())["units"]) == ["busy"]
    assert (out / "code" / "devices" / "measure_once.py").is_file()
    assert not (out / "gates.jsonl").exists()
