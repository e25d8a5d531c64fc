"""The table of methods: its bookkeeping, with pieces that take no time."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    methods, table = map(importlib.import_module, ("methods", "methods_table"))
    monkeypatch.setattr(methods, "WATCH_S", 0.05)
    yield methods, table
    for name in ("methods", "methods_table", "students"):
        sys.modules.pop(name, None)


def piece(out, table, name, fid, *, teacher="teacher-a.json", cpu_s=60.0):
    place = out / name
    place.mkdir(parents=True)
    found = {"images": 3, "fid": fid, "kid": 0.1, "lpips": 0.3, "macs": 10**8, "params": 10**5}
    measures = table.Measures(**found, teacher=teacher)
    (place / table.MEASURES).write_text(measures.model_dump_json())
    (out / teacher).write_text(measures.model_copy(update={"macs": 2 * 10**9}).model_dump_json())
    costs = table.Costs(wall_s=1.0, cpu_s=cpu_s, peak_rss_mib=100.0, attempts=1)
    (place / table.COSTS).write_text(costs.model_dump_json())
    return place


def test_a_piece_is_the_shipped_recipe_with_another_seed_and_as_many_steps(modules):
    methods, _ = modules
    text = methods.changed("facades-gcc", 8, 6000)
    shipped = (FOLDER.parent / "compress" / "recipes" / "facades-gcc.toml").read_text()
    differing = [
        (a, b) for a, b in zip(shipped.splitlines(), text.splitlines(), strict=True) if a != b
    ]
    assert differing == [("seed = 7", "seed = 8")]
    fewer = methods.changed("facades-gcc", 7, 20)
    head, training = fewer.split("[training]")
    assert "\nsteps = 600 " in head  # of sparse training, which is no part of them
    assert training.startswith("\nsteps = 20\n")


def test_what_another_recipe_has_left_does_not_count(modules, tmp_path):
    methods, table = modules
    place = piece(tmp_path, table, "l1-7", 100.0)
    methods.written(place, "seed = 7\n")
    assert not (place / table.MEASURES).exists()
    assert not (place / table.COSTS).exists()
    piece(tmp_path / "more", table, "l1-7", 100.0)
    again = tmp_path / "more" / "l1-7"
    (again / "recipe.toml").write_text("seed = 7\n")
    methods.written(again, "seed = 7\n")
    assert (again / table.MEASURES).exists()


def test_two_programs_share_the_pieces(modules, tmp_path):
    methods, _ = modules
    with methods.locked(tmp_path) as lock:
        assert lock is not None
        with methods.locked(tmp_path) as other:
            assert other is None
        sleeper = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,)
        )
    with methods.locked(tmp_path) as other:
        assert other is None  # the training is still there, whoever started it
    sleeper.communicate(b"\n")
    with methods.locked(tmp_path) as lock:
        assert lock is not None


def test_what_a_piece_takes_is_counted_over_all_attempts(modules, tmp_path):
    methods, table = modules
    path = tmp_path / table.COSTS
    work = "block = bytearray(64 * 2**20)\nfor _ in range(3_000_000): pass"
    for attempt in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", work])
        assert methods.watched(process, path) == 0
        spent = table.Costs.model_validate_json(path.read_text())
        assert spent.attempts == attempt
    assert spent.peak_rss_mib > 64
    assert 0.02 < spent.cpu_s < 60
    assert methods.watched(subprocess.Popen([sys.executable, "-c", "exit(3)"]), path) == 3


def test_the_table_has_means_and_spreads(modules, tmp_path):
    _, table = modules
    places = [piece(tmp_path, table, f"l1-{seed}", fid) for seed, fid in ((7, 100.0), (8, 110.0))]
    text = table.table(tmp_path, {"l1": places})
    assert "| teacher | | 2.000 G | 0.100 M | 110.0 | 0.100 | 0.300 | | |" in text
    assert "| `l1` | 2 | 20.0x fewer | 0.100 M | 105.0 ± 7.1 | 0.100 ± 0.000 |" in text
    assert text.endswith("| 1 | 100 |")


def test_pieces_of_two_teachers_are_no_table(modules, tmp_path):
    _, table = modules
    places = [
        piece(tmp_path, table, f"l1-{seed}", 100.0, teacher=f"teacher-{seed}.json")
        for seed in (7, 8)
    ]
    with pytest.raises(SystemExit, match="2 teachers"):
        table.table(tmp_path, {"l1": places})


def test_the_balance_is_drawn_of_who_plays_a_game(modules, tmp_path):
    methods, table = modules
    places = {}
    for method, losses in {
        "l1": {"student/imitation": 1.0},
        "dcd": {"discriminator/adversarial": 0.4, "student/adversarial": 0.6},
        "gcc": {
            "discriminator/adversarial": 0.1,
            "student_discriminator/adversarial": 0.5,
            "student/adversarial": 0.6,
            "gates/open": 0.75,
        },
        "cooperative": {
            "student_discriminator/adversarial": 0.5,
            "student/adversarial": 0.3 * 0.7,  # the recipe's weight
        },
    }.items():
        train = tmp_path / method / "train"
        train.mkdir(parents=True)
        rows = [json.dumps({"step": step, **losses}) for step in range(1, 301)]
        (train / "metrics.jsonl").write_text("\n".join(rows) + "\n")
        methods.written(tmp_path / method, methods.changed(f"facades-{method}", 7, 300))
        places[method] = [tmp_path / method]
    above, middle, below = table.balance(places).axes
    assert [line.get_label() for line in above.lines] == ["dcd", "gcc", "cooperative"]
    assert [line.get_ydata().tolist() for line in above.lines] == [
        pytest.approx([0.4] * 3),
        pytest.approx([0.5] * 3),
        pytest.approx([0.5] * 3),
    ]
    assert middle.lines[1].get_ydata().tolist() == pytest.approx([0.1] * 3)
    assert middle.lines[2].get_ydata().tolist() == pytest.approx([0.2] * 3)
    [gates] = below.lines  # the others have none
    assert gates.get_color() == above.lines[1].get_color()
    assert gates.get_ydata().tolist() == [0.75] * 300
