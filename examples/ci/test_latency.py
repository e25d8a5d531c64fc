"""Gates of a suite: pytest examples/ci --latency-baseline baselines.

Each takes from some ten seconds to two minutes, so keep them apart from the tests that run at every
keystroke: in a folder of their own, as here, or behind a mark.
"""

from pathlib import Path

import pytest

BUNDLES = Path("build/restore/cpu")


def test_the_bundle_is_no_slower_than_the_accepted_one(latency_gate):
    """The accepted one is what `pocketgan gate --accept` put into the folder of baselines."""
    latency_gate(BUNDLES / "bundle", baseline="store:restore")


@pytest.mark.parametrize("name", ["bundle"])
def test_each_bundle_is_no_slower_than_that_of_the_last_release(latency_gate, name):
    """And its median is within 30 ms on this machine, whatever the baseline is."""
    report = latency_gate(BUNDLES / name, baseline=f"release/{name}", budget_ms=30)
    print(f"latency {report.pairs[0].cell('steady').slowdown:+.1%}")  # pytest -s shows it
