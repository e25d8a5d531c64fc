from __future__ import annotations

import subprocess
import sys

import pytest

from deploy.neighbours import CpuUse, cpu_use, others_cores, warning

START = CpuUse(at_s=100.0, everyone_s=1000.0, own_s=10.0)


@pytest.mark.parametrize(
    ("everyone_s", "own_s", "cores"),
    [(20.0, 20.0, 0.0), (20.0, 5.0, 1.5), (4.0, 5.0, 0.0)],
    ids=["alone", "beside one and a half", "clocks that tick coarsely"],
)
def test_what_others_took(everyone_s, own_s, cores):
    after = CpuUse(110.0, 1000.0 + everyone_s, 10.0 + own_s)
    assert others_cores(START, after) == pytest.approx(cores)


def test_own_work_and_that_of_children_is_not_that_of_others():
    before = cpu_use()
    burn = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert cpu_use().own_s - before.own_s > 0.1  # half: the clock ticks in hundredths


def test_a_quiet_machine_gets_no_warning():
    assert warning(0.2, 2) == ""


def test_a_busy_machine_gets_one():
    assert warning(1.84, 2) == (
        "; other processes took 1.8 of 2 cores: measure again with --force when they are done"
    )
