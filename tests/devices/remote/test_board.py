"""One board, whatever runs on it: what it says is checked, and each failure is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devices.remote import fleet, ssh
from devices.remote.fleet import check_on
from devices.remote.inventory import Board, Inventory
from devices.sealed import MANIFEST, BundleError, digest, read_sealed, seal_text


def test_a_board_that_takes_too_long_is_ended(near, far, bundle):
    far.hangs()
    (one,) = check_on(["near"], bundle, inventory=near.inventory(timeout_s=0.5))
    assert one.reason == "measuring, mode rapid: not done after 0.5 s"
    assert near.left() == []
    assert far.ended()


def test_folders_that_were_locked_are_removed(near, far, bundle):
    far.does("os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a/b', 0)", "return 3")
    (one,) = check_on(["near"], bundle, inventory=near.inventory())
    assert one.reason == "pocketgan check there ended with status 3: without a word"
    assert near.left() == []


LIES = {
    "no json": ("shutil.copy('/bin/sh', words[-1])", "its report is none"),
    "too much": (
        "open(words[-1], 'w').truncate(33 << 20)",
        "reading the report: report.json has 34603008 bytes, the most is 33554432",
    ),
    "none, with a reason": (
        "print('pocketgan check: \\x1b[2Jthis machine is not one'); return 2",
        "pocketgan check there: [2Jthis machine is not one",
    ),
    "none, and no reason": ("pass", "reading the report: [Errno 2]"),
    "much said": ("[print('x' * 10**6) for _ in range(20)]; return 7", "ended with status 7: xxx"),
}


@pytest.mark.parametrize(("line", "said"), LIES.values(), ids=LIES)
def test_a_pocketgan_that_does_not_answer_as_it_should(line, said, near, far, bundle):
    far.does(line)
    (one,) = check_on(["near"], bundle, inventory=near.inventory())
    assert (one.status, one.report) == (2, None)
    assert said in one.reason
    assert "\n" not in one.reason
    assert "\x1b" not in one.reason


def test_a_report_of_another_engine_is_not_believed(near, far, bundle, make_report):
    far.reports(make_report(bundle, engine_sha256="0" * 64).model_dump_json())
    (one,) = check_on(["near"], bundle, inventory=near.inventory())
    assert one.reason.startswith(f"its report cannot be believed: engine_sha256 is {'0' * 64}")


IMPOSTORS = {
    "silent": ("exec sleep 60", "no answer after 0.3 s while connecting"),
    "talks for ever": ("exec yes", "it printed 200 lines and no greeting"),
    "one endless line": ("tr '\\0' x < /dev/zero", "more than 65536 bytes on one line"),
    "nonsense": (
        "echo pocketgan board 1; cat > /dev/null & echo '{\"folder\": NaN}'; wait",
        "it answered nonsense while looking at the board: '{\"folder\": NaN}'",
    ),
    "another folder": (
        'echo pocketgan board 1; read -r a; echo \'{"folder": "/home", "python": [3,11,0], '
        '"architecture": "x86_64", "board": null, "free_mib": 9, "pocketgan": null}\'; cat',
        "it works in '/home', which is no folder of ours",
    ),
    "no python": ("echo no such thing >&2; exit 1", "cannot connect: no such thing"),
}


@pytest.mark.parametrize(("script", "said"), IMPOSTORS.values(), ids=IMPOSTORS)
def test_a_far_side_that_is_not_ours(script, said, near, far, bundle, monkeypatch):
    if script == IMPOSTORS["silent"][0]:
        monkeypatch.setattr(ssh, "GREETING_S", 0.3)
    impostor = far.marks / "python"
    impostor.write_text(f"#!/bin/sh\n{script}\n")
    impostor.chmod(0o755)
    (one,) = check_on(["near"], bundle, inventory=near.inventory(python=str(impostor)))
    assert (one.status, one.report, one.left) == (2, None, "")
    assert said in one.reason


def test_no_python_there(near, bundle):
    (one,) = check_on(["near"], bundle, inventory=near.inventory(python="~/none/python"))
    assert one.reason.startswith("it has no Python at '~/none/python': install 3.11 or newer")


@pytest.fixture
def unfinished(make_bundle, profile, tmp_path) -> tuple[Path, Path]:
    """A bundle that is not compiled, and the export it was made of."""
    export = tmp_path / "export"
    export.mkdir()
    (export / "student.onnx").write_bytes(b"student")
    face = {"sha256": {"student.onnx": digest(export / "student.onnx")}}
    (export / "export.json").write_text(json.dumps(face))
    (export / "export.json.sha256").write_text(
        seal_text(digest(export / "export.json"), "export.json")
    )
    mine = profile.model_copy(update={"memory_mib": 100_000})
    folder = make_bundle("unfinished", profile=mine, compiled=False)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["lineage"] = {"export": f"sha256:{digest(export / 'export.json')}"}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    seal = seal_text(digest(folder / MANIFEST), MANIFEST)
    (folder / f"{MANIFEST}.sha256").write_text(seal)
    return folder, export


def test_an_unfinished_bundle_is_finished_there_and_brought_back(
    near, far, bundle, report, unfinished, tmp_path
):
    (far.marks / "report.json").write_text(report.model_dump_json())
    far.does(
        "here = {'deploy': 'built', 'check': words[-1]}[verb]",
        "assert verb == 'check' or words == ['export', '--device', 'export/profile.toml', "
        "'--out', 'built'] and os.path.exists('export/student.onnx')",
        f"made = {str(bundle)!r} if verb == 'deploy' else os.path.join(MARKS, 'report.json')",
        "(shutil.copytree if verb == 'deploy' else shutil.copy)(made, here)",
    )
    folder, export = unfinished
    with pytest.raises(BundleError, match="not compiled yet: give what it was made of with --exp"):
        check_on(["near"], folder, inventory=near.inventory())
    back = tmp_path / "back"
    (one,) = check_on(["near"], folder, inventory=near.inventory(), export=export, fetch=back)
    assert (one.status, one.reason) == (0, "")
    assert read_sealed(back / "near") == read_sealed(bundle)
    assert [path.name for path in back.iterdir()] == ["near"]
    assert near.left() == []
    with pytest.raises(ValueError, match="near exists already; move it elsewhere"):
        check_on(["near"], folder, inventory=near.inventory(), export=export, fetch=back)


def test_a_bundle_that_the_board_could_not_finish(near, far, unfinished):
    folder, export = unfinished
    far.does(f"shutil.copytree({str(folder)!r}, 'built')")
    (one,) = check_on(["near"], folder, inventory=near.inventory(), export=export)
    assert one.reason.startswith("it is no cpu and could not finish the bundle")


def test_what_does_not_fit_together_is_said_before_any_board_is_spoken_to(
    bundle, unfinished, tmp_path
):
    folder, export = unfinished
    with pytest.raises(BundleError, match="is compiled already, and that engine is the one"):
        check_on(["near"], bundle, export=export)
    with pytest.raises(ValueError, match="--fetch brings back what boards finish"):
        check_on(["near"], bundle, fetch=tmp_path / "back")
    (export / "export.json").write_text('{"sha256": {}}')
    (export / "export.json.sha256").write_text(
        seal_text(digest(export / "export.json"), "export.json")
    )
    with pytest.raises(BundleError, match="was not made of"):
        check_on(["near"], folder, export=export)
    boards = Inventory(boards={"near": Board(destination="near", wheel=tmp_path / "x.whl")})
    with pytest.raises(ValueError, match=r"x\.whl is no wheel of pocketgan"):
        check_on(["near"], bundle, inventory=boards)


def test_a_board_of_another_profile_is_not_spoken_to(bundle):
    boards = Inventory(boards={"near": Board(destination="near", profile="jetson")})
    (one,) = check_on(["near"], bundle, inventory=boards)
    assert one.reason == "the inventory says that it is jetson, and the bundle is for cpu"


def test_a_report_over_the_budget_and_one_that_cannot_say(
    near, far, make_bundle, profile, make_report
):
    tight = profile.budget.model_copy(update={"p50_ms": 1e-3})
    bundle = make_bundle(profile=profile.model_copy(update={"budget": tight}))
    report = make_report(bundle)
    far.reports(report.model_dump_json())
    (one,) = check_on(["near"], bundle, inventory=near.inventory())
    assert (one.status, one.report) == (1, report)
    assert one.reason.startswith("p50 is 1.03 ms, the budget is 0.001 ms")
    assert fleet.FleetReport(profile="cpu", boards=(one,)).exit_status == 1
