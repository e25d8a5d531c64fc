"""What tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data sets and weights that may not be in this repository; tests that want them skip without.

    They are looked for in ``../shared/data``, beside the checkout.
    """
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data sets in ../shared/data, beside the checkout")
    return folder
