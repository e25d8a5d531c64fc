import itertools

import numpy as np
import pytest

from devices.gate.judge import LOOKS
from devices.gate.report import Once
from devices.gate.rounds import Pair, compare


def once(machine, *, steady_ms=5.0, cold_ms=300.0, memory_mib=120.0):
    """One fresh process: its median is ``steady_ms``, whatever its first and last image took."""
    return Once(
        machine=machine,
        cold_ms=cold_ms,
        load_ms=cold_ms * 0.8,
        first_ms=cold_ms * 0.1,
        samples_ms=(18 * steady_ms, steady_ms, 0.1),
        peak_rss_mib=memory_mib,
    )


class FakeMeasure:
    """Measures nothing: what a folder is called and a seed decide what it says.

    Attributes:
        order: Folders in the order they were measured.
    """

    def __init__(self, machine, *, noise=0.001, steady=1.0, cold=1.0, memory=1.0, seed=0):
        self.order = []
        self._machine = machine
        self._noise = noise
        self._factors = {"steady_ms": steady, "cold_ms": cold, "memory_mib": memory}
        self._random = np.random.default_rng(seed)

    def __call__(self, bundle):
        self.order.append(bundle)
        usual = {"steady_ms": 5.0, "cold_ms": 300.0, "memory_mib": 120.0}
        wobble = np.exp(self._random.normal(0, self._noise, 3))
        grown = {
            name: value * float(one) * (self._factors[name] if "candidate" in bundle.name else 1.0)
            for (name, value), one in zip(usual.items(), wobble, strict=True)
        }
        return once(self._machine, **grown)


@pytest.fixture
def fake(machine):
    """Makes a `FakeMeasure`; a folder with "candidate" in its name is slower by its factors."""
    return lambda **options: FakeMeasure(machine, **options)


@pytest.fixture
def report(make_bundle, fake):
    """A report of one pair or more, measured by a fake."""
    numbers = itertools.count()

    def make(*names, rounds=LOOKS[-1], **options):
        names = names or ("restore on cpu",)
        pairs = [
            Pair(name, make_bundle(f"baseline{at}"), make_bundle(f"candidate{at}"))
            for name, at in zip(names, numbers, strict=False)
        ]
        return compare(pairs, fake(**options), rounds=rounds, clock=iter(range(9)).__next__)

    return make
