from __future__ import annotations

import os
import time

import pytest

from deploy import cache_key
from deploy.cache import EngineCache, default_root
from deploy.cache_key import engine_key
from deploy.cache_lock import hold
from deploy.main import main
from devices.engine_host import this_engine_host
from devices.profile import load_profile
from tests.deploy.cache_keys import make_key

DAY = 86400


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POCKETGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    return EngineCache(default_root())


@pytest.fixture
def put(cache, tmp_path):
    """Puts an engine into the cache that was last used so many days ago."""

    def put(key, days=0.0):
        def fill(folder):
            (folder / "engine.onnx").write_bytes(bytes(1 << 20))
            return folder / "engine.onnx"

        cache.build(key, fill, tmp_path / key.digest, name="restore [beta]")
        used = time.time() - days * DAY
        os.utime(cache.root / key.digest / "key.json", (used, used))
        return key.digest

    return put


def here():
    return engine_key(
        b"model",
        load_profile("cpu"),
        backend="openvino",
        precision="int8",
        quantizer="nncf",
        calibration_sha256="c" * 64,
        host=this_engine_host(),
    )


def said(capsys, *argv):
    assert main(["cache", *argv]) == 0
    return " ".join(capsys.readouterr().out.split())


def failed(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        main(["cache", *argv])
    assert exit.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_an_empty_cache_says_so(cache, capsys):
    assert said(capsys, "ls") == f"no engine in {cache.root}"
    assert said(capsys, "clear", "--all") == f"0 engines removed, 0.0 MiB, from {cache.root}"


def test_ls_shows_what_there_is_the_last_used_first(cache, put, capsys):
    old, new = put(make_key(), days=3), put(make_key(backend="openvino", precision="int8"))
    text = said(capsys, "ls")
    assert text.index(new[:12]) < text.index(old[:12])
    assert f"{old[:12]} tensorrt fp16 restore [beta] aaaaaaaaaaaa 1.0 0.0 s" in text
    assert " 3 d " in text
    assert text.endswith(f"2 engines, 2.0 of 2048 MiB, in {cache.root}")


def test_ls_shows_what_it_cannot_read(cache, put, capsys):
    digest = put(make_key())
    (cache.root / digest / "key.json").write_text("{}")
    assert "unreadable, or of another version of pocketgan" in said(capsys, "ls")
    assert "cannot be read by this version" in failed(capsys, "explain", digest)
    assert "1 engines removed" in said(capsys, "clear", "--all")
    assert cache.entries() == []


def test_explain_says_that_an_engine_is_used_here(put, capsys):
    digest = put(here())
    text = said(capsys, "explain", digest[:8].upper())
    assert f"{digest}: openvino int8 of restore [beta]" in text
    assert text.endswith("used on this machine for the same model, profile and options")


def test_explain_names_what_is_another_here(put, capsys):
    key = here()
    older = key.model_copy(update={"runtimes": {"openvino": "2020.1"}, "cpu": "8086"})
    text = said(capsys, "explain", put(older))
    assert f"cpu 8086 -> {key.cpu}" in text
    assert f"runtimes openvino 2020.1 -> {key.runtimes['openvino']}" in text
    assert "not used on this machine now: runtimes" in text
    fields = cache_key.EngineKey.model_fields
    assert all(f" {field} " in text for field in fields)


def test_explain_says_what_is_damaged(cache, put, capsys):
    digest = put(here())
    (cache.root / digest / "engine" / "engine.onnx").write_bytes(b"x")
    text = said(capsys, "explain", digest)
    assert "built again when it is wanted, for it is damaged: " in text
    assert "engine.onnx does not match its digest" in text


def test_explain_wants_one_engine(cache, put, capsys):
    put(make_key())
    put(make_key(threads=1))
    assert "2 engines begin with ''" in failed(capsys, "explain", "")
    message = failed(capsys, "explain", "nothing")
    assert f"no engine in {cache.root} begins with 'nothing'; pocketgan cache ls" in message


def test_clear_removes_what_was_not_used_for_so_long(cache, put, capsys):
    put(make_key(), days=40)
    kept = put(make_key(threads=1), days=20)
    assert "1 engines removed, 1.0 MiB" in said(capsys, "clear", "--older-than", "30")
    assert [entry.digest for entry in cache.entries()] == [kept]
    put(make_key(threads=2), days=-1)  # the clock was put back since
    assert "2 engines removed" in said(capsys, "clear", "--all")
    assert list(cache.root.iterdir()) == []


def test_clear_leaves_what_is_in_use(cache, put, capsys):
    digest = put(make_key())
    with hold(cache.root / f".{digest}.lock", wait=True):
        assert "0 engines removed" in (text := said(capsys, "clear", "--all"))
    assert text.endswith("; 1 in use and kept")
    assert [entry.digest for entry in cache.entries()] == [digest]


@pytest.mark.parametrize("days", ["-1", "nan"])
def test_a_length_of_time_that_is_none_is_refused(cache, capsys, days):
    assert f"--older-than {days}: give a number of days" in failed(
        capsys, "clear", "--older-than", days
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "required: ls|explain|clear"),
        (("clear",), "one of the arguments --older-than --all is required"),
        (("explain",), "required: DIGEST"),
    ],
)
def test_what_is_missing_is_named(cache, capsys, argv, words):
    assert words in failed(capsys, *argv)
