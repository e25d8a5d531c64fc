"""Boards over the real ssh: what goes right, and that each thing which goes wrong is one line."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from devices.remote import fleet, ssh, words
from devices.remote.board import Outcome
from devices.remote.fleet import check_on
from devices.remote.inventory import Board, Inventory
from devices.sealed import digest

SECRET = "hunter2-do-not-print"


def test_two_boards_are_measured_and_nothing_is_left(net, far, inventory, bundle, report):
    far.reports(report.model_dump_json())
    steps = []
    results = check_on(
        ["two", "one"],
        bundle,
        inventory=inventory(env={"TOKEN": SECRET}),
        on_step=lambda *step: steps.append(step),
    )
    assert [(each.name, each.status, each.reason, each.left) for each in results] == [
        ("two", 0, "", ""),
        ("one", 0, "", ""),
    ]
    assert all(each.report == report for each in results)
    done = [doing for name, doing, share in steps if name == "one" and share is None]
    assert done == ["looking at the board", "copying the bundle", "measuring, mode rapid"]
    assert [server.left() for server in net.servers] == [[], []]
    logs = "".join(path.read_text() for path in net.config.parent.glob("log-*"))
    assert "Accepted publickey" in logs
    assert SECRET not in logs + repr(steps) + repr(results)


def test_a_board_behind_a_jump_host_whose_login_shell_talks(net, far, inventory, bundle, report):
    far.reports(report.model_dump_json())
    talkative = far.marks / "python"
    talkative.write_text(f'#!/bin/sh\necho Welcome; echo; exec "{sys.executable}" "$@"\n')
    talkative.chmod(0o755)
    (only,) = check_on(["behind"], bundle, inventory=inventory(python=str(talkative)))
    assert (only.status, only.reason) == (0, "")


def test_a_board_that_dies_in_the_copy_does_not_stop_the_other(
    net, far, inventory, bundle, report, monkeypatch
):
    far.reports(report.model_dump_json())
    monkeypatch.setattr(ssh, "CHUNK_BYTES", 1024)
    dropped = threading.Event()

    def on_step(name, doing, share):
        if name == "one" and share is not None and share > 0.4 and not dropped.is_set():
            dropped.set()
            net.servers[0].drop()
            time.sleep(0.2)  # ssh notices; the rest of the copy is still to come

    one, two = check_on(["one", "two"], bundle, inventory=inventory(), on_step=on_step)
    assert one.status == 2
    assert one.reason.startswith("the connection was lost while copying the bundle")
    assert (two.status, two.reason) == (0, "")
    assert [server.left() for server in net.servers] == [[], []]
    assert one.left == ""


@pytest.mark.parametrize("how", ["drop", "crash", pytest.param("freeze", marks=pytest.mark.slow)])
def test_a_board_that_dies_in_the_run_is_cleaned(how, net, far, inventory, bundle, monkeypatch):
    if how == "freeze":
        for option in ("ServerAliveInterval", "ServerAliveCountMax"):
            monkeypatch.setitem(words.OPTIONS, option, "1")
    far.hangs()
    server = net.servers[0]

    def kill():
        far.wait_until_started()
        getattr(server, how)()

    def on_step(name, doing, share):
        if doing.startswith("measuring"):
            killer.start()
        if doing == "cleaning up" and how != "drop":
            seen.extend(server.far.iterdir())  # nobody over there was told, or left, to remove it

    killer = threading.Thread(target=kill)
    seen: list[Path] = []
    (one,) = check_on(["one"], bundle, inventory=inventory(), on_step=on_step)
    killer.join()
    assert one.status == 2
    assert one.reason.startswith("the connection was lost while measuring, mode rapid")
    assert one.left == ""
    assert len(seen) == (how != "drop")
    assert server.left() == []
    assert far.ended()
    server.crash()


def test_a_folder_that_cannot_be_removed_is_named(net, far, inventory, bundle, tmp_path):
    far.hangs()
    changing = tmp_path / "config"
    shutil.copy(net.config, changing)

    def kill():
        far.wait_until_started()
        changing.write_text(net.config.read_text().replace("IdentityFile", "#"))
        net.servers[0].crash()

    def on_step(name, doing, share):
        if doing.startswith("measuring"):
            killer.start()

    killer = threading.Thread(target=kill)
    boards = inventory(config=changing)
    (one,) = check_on(["one"], bundle, inventory=boards, on_step=on_step)
    killer.join()
    (folder,) = net.servers[0].far.iterdir()
    shutil.rmtree(folder)
    assert one.left.startswith(f"{folder} is still there (cannot connect: ")
    assert one.left.endswith(": remove it by hand")


def test_ctrl_c_ends_what_runs_and_cleans_up(net, far, inventory, bundle, request):
    far.hangs()
    # a session that was started in the background has none
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupt():
        far.wait_until_started()
        os.kill(os.getpid(), signal.SIGINT)

    def on_step(name, doing, share):
        if doing.startswith("measuring"):
            killer.start()

    killer = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):
        check_on(["one"], bundle, inventory=inventory(), on_step=on_step)
    killer.join()
    assert net.servers[0].left() == []
    assert far.ended()


def test_hosts_that_cannot_be_reached(net, bundle, tmp_path, new_key):
    other = new_key(tmp_path / "other")
    lines = net.config.read_text().splitlines()

    def config(name, **changes):
        path = tmp_path / name
        keep = [line for line in lines if line.split()[0] not in changes]
        path.write_text("\n".join([*keep, *(f'  {k} "{v}"' for k, v in changes.items())]))
        return path

    def reason(path, host="one"):
        boards = Inventory(ssh_config=path, boards={host: Board(destination=host)})
        (only,) = check_on([host], bundle, inventory=boards)
        assert (only.status, only.report) == (2, None)
        return only.reason

    (tmp_path / "stranger").write_text(
        f"[127.0.0.1]:{net.servers[0].port} {Path(f'{other}.pub').read_text()}"
    )
    (tmp_path / "nobody").touch()
    for known in ("stranger", "nobody"):
        said = reason(config(f"config-{known}", UserKnownHostsFile=tmp_path / known))
        assert said.startswith("cannot connect: Host key verification failed.; its key is not")
    said = reason(config("config-key", IdentityFile=other))
    assert "Permission denied" in said
    assert "`ssh one` must work without a question" in said
    assert "Connection refused" in reason(net.config, "shut")
    said = reason(config("config-name", HostName="no-such-host.invalid"))
    assert "Could not resolve hostname no-such-host.invalid" in said
    assert "it is no name of the inventory" in said


def test_a_wheel_of_the_inventory_comes_before_what_is_installed(
    net, far, inventory, bundle, report, tmp_path
):
    far.reports(report.model_dump_json())
    wheel = tmp_path / "pocketgan-9.8-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(far.library / "deploy" / "main.py", "deploy/main.py")
        archive.writestr("deploy/__init__.py", "")
    far.does("raise SystemExit('the installed one ran')")
    steps = []
    (one,) = check_on(
        ["one"],
        bundle,
        inventory=inventory(wheel=wheel),
        on_step=lambda name, doing, share: steps.append(doing),
    )
    assert (one.status, one.reason) == (0, "")
    assert "copying the wheel" in steps
    assert net.servers[0].left() == []


@pytest.mark.slow
def test_this_checkout_measures_over_ssh(net, bundle, tmp_path):
    """The whole way with nothing feigned; the board has an older version, so a wheel is sent."""
    older = tmp_path / "older" / "pocketgan-0.0.1.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: pocketgan\nVersion: 0.0.1\n")
    server = net.servers[0]
    env = {"TMPDIR": str(server.far), "PYTHONPATH": str(older.parent), "OMP_NUM_THREADS": "1"}
    board = Board(destination="one", python=sys.executable, env=env, timeout_s=120.0)
    boards = Inventory(ssh_config=net.config, boards={"one": board})
    steps = []
    (one,) = check_on(
        ["one"],
        bundle,
        mode="rapid",
        inventory=boards,
        on_step=lambda name, doing, share: steps.append(doing),
    )
    assert one.report is not None, one.reason
    assert "copying the wheel" in steps
    assert len(one.report.samples_ms) >= 64
    assert one.report.engine_sha256 == digest(bundle / "engine.onnx")
    assert server.left() == []


def test_no_more_than_eight_at_once(bundle, monkeypatch):
    now, most = [], []

    def run_errand(chosen, errand, tell, stop):
        now.append(chosen.name)
        most.append(len(now))
        time.sleep(0.05)
        now.remove(chosen.name)
        return Outcome(None, failed=f"{chosen.name} is off")

    monkeypatch.setattr(fleet, "run_errand", run_errand)
    names = [f"board{number}" for number in range(20)]
    results = check_on(names, bundle)
    assert [each.reason for each in results] == [f"{name} is off" for name in names]
    assert max(most) == 8
