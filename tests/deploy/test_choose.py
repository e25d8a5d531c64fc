from __future__ import annotations

import random

import pytest

from deploy.choose import ALIKE, Tried, choose, engine_name, spans
from deploy.manifests import Quality, QualityFloor
from deploy.verify import Fidelity

FLOOR = QualityFloor(psnr_db=40.0, truth_drop_db=0.5)


def fidelity(psnr_db=50.0, drop=0.0):
    return Fidelity(psnr_db, 0.99, 0.1, Quality(psnr_db=30.0, ssim=0.9), 30.0, drop)


def tried(backend, precision, p50_ms, psnr_db=50.0, drop=0.0):
    return Tried(
        backend, precision, fidelity=fidelity(psnr_db, drop), p50_ms=p50_ms, engine_bytes=1000
    )


def reasons(candidates):
    return [one.reason for one in candidates]


def test_the_fastest_that_is_good_enough():
    shipped, candidates = choose(
        [
            tried("openvino", "int8", 5.0, psnr_db=39.0),
            tried("openvino", "bf16", 8.0),
            tried("onnxruntime", "int8", 7.0, drop=0.6),
            tried("openvino", "fp32", 16.0),
            tried("onnxruntime", "fp32", 20.0),
            Tried("onnxruntime", "fp16", failure="no such provider"),
        ],
        FLOOR,
    )
    assert shipped == 1
    assert [one.shipped for one in candidates] == [False, True, False, False, False, False]
    assert reasons(candidates) == [
        "39.0 dB to the float student, floor 40",
        "fastest of 2 that may ship",
        "loses 0.60 dB to the truth, floor 0.5",
        "slower: 2.00 x the one that ships",
        "slower than float: 20.00 against 16.00 ms",
        "no such provider",
    ]
    assert candidates[5].psnr_db is candidates[5].p50_ms is None


def test_int8_that_gains_little_is_not_worth_its_loss():
    engines = [tried("onnxruntime", "int8", 6.0), tried("onnxruntime", "fp32", 8.0)]
    shipped, candidates = choose(engines, FLOOR)
    assert shipped == 1
    assert reasons(candidates)[0] == "1.33 x as fast as float, worth its loss from 1.5 x on"
    asked = QualityFloor(psnr_db=40.0, truth_drop_db=0.5, speedup=1.0)
    assert choose(engines, asked)[0] == 0
    assert choose([tried("openvino", "bf16", 6.0), engines[1]], FLOOR)[0] == 0


def test_int8_slower_than_float_does_not_ship():
    shipped, candidates = choose(
        [tried("onnxruntime", "int8", 9.0), tried("onnxruntime", "fp32", 8.0)], FLOOR
    )
    assert shipped == 1
    assert reasons(candidates)[0] == "slower than float: 9.00 against 8.00 ms"


def test_unmeasured_the_first_that_passes_ships():
    shipped, candidates = choose(
        [
            tried("onnxruntime", "int8", None, psnr_db=12.0),
            tried("onnxruntime", "fp16", None),
            tried("onnxruntime", "fp32", None),
        ],
        FLOOR,
    )
    assert shipped == 1
    assert reasons(candidates)[1:] == [
        "first choice of the profile of 2 that may ship; not measured here",
        "the profile prefers onnxruntime fp16",
    ]


def test_equally_fast_the_preferred_one_ships():
    pair = [tried("openvino", "int8", 4.0), tried("onnxruntime", "int8", 4.0)]
    assert choose([*pair, tried("openvino", "fp32", 9.0)], FLOOR)[0] == 0


def test_of_two_as_fast_as_each_other_the_one_closer_to_float_ships():
    shipped, candidates = choose(
        [
            tried("openvino", "int8", 4.00, psnr_db=41.0),
            tried("onnxruntime", "int8", 4.08, psnr_db=47.0),
            tried("openvino", "bf16", 4.20, psnr_db=60.0),
            tried("openvino", "fp32", 9.0),
        ],
        FLOOR,
    )
    assert shipped == 1
    assert reasons(candidates)[0] == "as fast (0.98 x) but further from float"
    assert reasons(candidates)[2] == "slower: 1.03 x the one that ships"


def test_names_say_what_is_not_plain():
    assert engine_name("openvino", "fp32", None) == "openvino fp32"
    assert engine_name("openvino", "int8", "nncf; 2 of 24 layers in float") == (
        "openvino int8 (nncf; 2 of 24 layers in float)"
    )
    assert engine_name("onnxruntime", "int8", "nncf", "sub-pixel") == (
        "onnxruntime int8 (nncf; sub-pixel)"
    )


def test_one_that_was_not_measured_does_not_ship_beside_those_that_were():
    shipped, candidates = choose(
        [tried("openvino", "int8", None), tried("openvino", "fp32", 9.0)], FLOOR
    )
    assert shipped == 1
    assert reasons(candidates)[0] == "was not measured"


def test_when_none_may_ship_the_numbers_say_why():
    with pytest.raises(ValueError, match="no engine may ship") as refused:
        choose(
            [
                tried("openvino", "int8", 5.0, psnr_db=21.44),
                tried("openvino", "fp32", 9.0, drop=3.0),
                Tried("onnxruntime", "fp32", failure="not installed"),
            ],
            FLOOR,
        )
    for part in (
        "openvino int8: 21.4 dB to the float student, floor 40",
        "openvino fp32: loses 3.00 dB to the truth, floor 0.5",
        "onnxruntime fp32: not installed",
        "train the student longer",
    ):
        assert part in str(refused.value)


@pytest.mark.parametrize("seed", range(300))
def test_never_below_the_floor_and_never_slower_than_float(seed):
    rng = random.Random(seed)
    measured = rng.random() < 0.7
    every = []
    for backend in ("openvino", "onnxruntime"):
        for precision in ("int8", "bf16", "fp16", "fp32"):
            if rng.random() < 0.2:
                every.append(Tried(backend, precision, failure="broke"))
            elif rng.random() < 0.9:
                p50_ms = rng.choice([rng.uniform(1, 40), 7.0]) if measured else None
                every.append(
                    tried(backend, precision, p50_ms, rng.uniform(30, 60), rng.uniform(-0.2, 0.8))
                )
    floats = [t.p50_ms for t in every if t.precision == "fp32" and t.p50_ms is not None]
    may = [
        t
        for t in every
        if t.fidelity
        and t.fidelity.passes(FLOOR)
        and (not measured or t.p50_ms <= min(floats, default=1e9))
        and (not measured or t.precision != "int8" or t.p50_ms * 1.5 <= min(floats, default=1e9))
    ]
    if not may:
        with pytest.raises(ValueError, match="no engine may ship"):
            choose(every, FLOOR)
        return
    shipped, candidates = choose(every, FLOOR)
    assert every[shipped] in may
    if measured:
        fastest = min(t.p50_ms for t in may)
        assert every[shipped].p50_ms <= fastest * ALIKE
        as_fast = [t for t in may if t.p50_ms <= fastest * ALIKE]
        assert every[shipped].fidelity.psnr_db == max(t.fidelity.psnr_db for t in as_fast)
    else:
        assert every[shipped] is may[0]
    assert [one.shipped for one in candidates].count(True) == 1
    assert candidates[shipped].shipped
    assert all(one.reason for one in candidates)
    assert len(candidates) == len(every)


def test_many_figures_are_said_kind_by_kind():
    figures = [("openvino int8", 3.14), ("openvino int8", 4.1), ("openvino fp32", 9.0)]
    assert spans(figures, "ms") == "openvino int8 3.1 to 4.1 ms, openvino fp32 9.0 ms"
    assert spans([("a", 1.01), ("a", 1.02)], "ms") == "a 1.0 ms"
