from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploy.eager import EagerError, eager_teacher


@pytest.fixture
def teacher(tmp_path):
    """A teacher whose process runs the given lines, with the arguments it was started with."""

    def start(script, patience_s=30.0):
        path = tmp_path / "teacher.py"
        path.write_text(script)
        return eager_teacher(
            Path("some/export"),
            threads=2,
            image_size=64,
            command=(sys.executable, str(path)),
            patience_s=patience_s,
        )

    return start


ANSWERS = """
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps([float(len(sys.argv))] * int(line)), flush=True)
"""


def test_it_answers_counts_with_samples(teacher):
    with teacher(ANSWERS) as runner:
        assert runner(3) == [6.0] * 3
        assert runner(1) == [6.0]


def test_it_is_told_what_to_run(teacher, tmp_path):
    script = f"import sys; open({str(tmp_path / 'argv')!r}, 'w').write(' '.join(sys.argv[1:]))"
    with teacher(script + ANSWERS) as runner:
        assert runner(1)
    assert (tmp_path / "argv").read_text() == "some/export --threads 2 --image-size 64"


def test_without_torch_there_is_no_runner(teacher, caplog):
    caplog.set_level("INFO")
    with teacher("import torch_that_is_not_there") as runner:
        assert runner is None
    assert "No module named 'torch_that_is_not_there'" in caplog.text


def test_a_command_that_is_not_there(tmp_path, caplog):
    caplog.set_level("INFO")
    command = (str(tmp_path / "python"),)
    with eager_teacher(tmp_path, threads=1, image_size=8, command=command) as runner:
        assert runner is None
    assert "the teacher is not measured" in caplog.text


def test_one_that_never_gets_ready_is_ended(teacher):
    with teacher("import time; time.sleep(60)", patience_s=0.2) as runner:
        assert runner is None


def test_one_that_dies_while_it_is_measured(teacher):
    script = "import sys; print('ready', flush=True); input(); sys.exit('out of memory')"
    with (
        pytest.raises(EagerError, match="stopped while it was measured: out of memory"),
        teacher(script) as runner,
    ):
        runner(2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[1.0]", "answered 1 samples, not 2"),
        ("hello", "answered 'hello', not 2 samples"),
        ('{"a": 1}', "not 2 samples"),
    ],
)
def test_one_that_answers_something_else(answer, message, teacher):
    script = f"print('ready', flush=True); input(); print({answer!r}, flush=True); input()"
    with pytest.raises(EagerError, match=message), teacher(script) as runner:
        runner(2)


def test_its_process_ends_with_the_block(teacher, tmp_path):
    pid = tmp_path / "pid"
    script = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid()))"
    with teacher(script + ANSWERS) as runner:
        runner(1)
    assert not Path("/proc", pid.read_text()).exists()
