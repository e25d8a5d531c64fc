import os
import subprocess
import sys

import pytest

from devices.unreported import TELEMETRY, unreported


def test_the_telemetry_package_is_hidden_and_comes_back(monkeypatch):
    monkeypatch.setitem(sys.modules, TELEMETRY, sys)
    with unreported(), pytest.raises(ImportError):
        __import__(TELEMETRY)
    assert sys.modules[TELEMETRY] is sys


def test_opening_openvino_writes_nothing_into_the_home_directory(tmp_path):
    pytest.importorskip("openvino")
    subprocess.run(
        [sys.executable, "-c", "import devices.openvino"],
        check=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert list(tmp_path.iterdir()) == []
