from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
import time

import pytest

from deploy import cache as cache_module
from deploy.cache import EngineCache, default_root
from deploy.cache_entry import damage
from deploy.cache_key import EngineKey
from deploy.cache_lock import hold
from devices.session import DeviceError
from tests.deploy.cache_keys import make_key
from tests.deploy.test_cache_key import CHANGES

KEY = make_key()
PLAN = b"plan " * 100
FILES = ("key.json", "key.json.sha256", "engine/engine.plan", "engine/notes.json")


class Builder:
    """Counts how often it builds; two files, like a plan with its notes."""

    def __init__(self, plan=PLAN):
        self.plan = plan
        self.builds = 0

    def __call__(self, folder):
        self.builds += 1
        (folder / "engine.plan").write_bytes(self.plan)
        (folder / "notes.json").write_text("{}")
        return folder / "engine.plan"


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache" / "engines")


@pytest.fixture
def get(cache, tmp_path):
    """Gets the engine of a key into a fresh folder."""
    outs = iter(range(1000))

    def get(key=KEY, fill=None, cache=cache):
        return cache.build(key, fill or Builder(), tmp_path / f"out{next(outs)}", name="restore")

    return get


def test_the_second_time_nothing_is_built(get, caplog):
    builder = Builder()
    with caplog.at_level("INFO"):
        first, second = get(fill=builder), get(fill=builder)
    assert builder.builds == 1
    assert first != second
    assert second.read_bytes() == PLAN
    assert sorted(path.name for path in second.parent.iterdir()) == ["engine.plan", "notes.json"]
    assert "building tensorrt fp16 of restore: in the engine cache there is no engine yet" in (
        caplog.messages
    )
    assert caplog.messages[-1].startswith("tensorrt fp16 of restore from the engine cache (")


@pytest.mark.parametrize("field", CHANGES)
def test_one_changed_field_builds_again_and_the_log_names_it(get, caplog, field):
    value, told = CHANGES[field]
    get()
    other = Builder(b"another plan")
    with caplog.at_level("INFO"):
        engine = get(EngineKey.model_validate(dict(KEY) | {field: value}), other)
    assert other.builds == 1
    assert engine.read_bytes() == b"another plan"
    assert any(line.endswith(f"the nearest differs in {told}") for line in caplog.messages)
    assert get(fill=other).read_bytes() == PLAN, "the first engine is still there"
    assert other.builds == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0, -1])
def test_a_flipped_byte_in_any_file_is_noticed_and_the_engine_built_again(
    cache, get, caplog, name, where
):
    get()
    file = cache.root / KEY.digest / name
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(data)
    builder = Builder()
    assert get(fill=builder).read_bytes() == PLAN
    assert builder.builds == 1
    (line,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("damaged in the engine cache, so built again: ")
    assert file.name.removesuffix(".sha256") in line
    get(fill=builder)
    assert builder.builds == 1, "what was built again is kept"


def test_the_files_of_an_entry_are_those_that_the_tests_flip(cache, get):
    get()
    entry = cache.root / KEY.digest
    there = {str(path.relative_to(entry)) for path in entry.rglob("*") if path.is_file()}
    assert there == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(cache, get, caplog, name):
    get()
    (cache.root / KEY.digest / name).unlink()
    builder = Builder()
    get(fill=builder)
    assert builder.builds == 1
    assert f"{name}: No such file or directory" in caplog.text


def test_an_entry_under_another_name_is_not_taken_for_it(cache, get, caplog):
    get()
    other = make_key(threads=1)
    shutil.copytree(cache.root / KEY.digest, cache.root / other.digest)
    builder = Builder(b"other")
    assert get(other, builder).read_bytes() == b"other"
    assert f"is not the key of {other.digest[:12]}" in caplog.text


@pytest.mark.parametrize("error", [DeviceError("no"), KeyboardInterrupt(), OSError("disk")])
def test_a_failed_build_is_passed_on_and_nothing_is_kept(cache, get, error):
    def fails(folder):
        (folder / "engine.plan").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        get(fill=fails)
    assert cache.entries() == []
    assert get().read_bytes() == PLAN


def test_an_engine_elsewhere_is_refused(cache, get, tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(ValueError, match=r"is not a file of .*out0, where it was to be built"):
        get(fill=lambda folder: tmp_path / "x")
    with pytest.raises(ValueError, match=r"none\.plan is not a file of"):
        get(fill=lambda folder: folder / "none.plan")
    assert cache.entries() == []


def test_a_folder_with_something_in_it_is_refused(cache, tmp_path):
    (tmp_path / "old.plan").write_text("x")
    with pytest.raises(ValueError, match="is not empty; give the engine a folder of its own"):
        cache.build(KEY, Builder(), tmp_path, name="restore")


def test_folders_that_a_runtime_makes_beside_its_engine_are_not_kept(get):
    def fill(folder):
        (folder / "runtime-cache").mkdir()
        (folder / "runtime-cache" / "kernel").write_text("x")
        return Builder()(folder)

    get(fill=fill)
    assert not (get().parent / "runtime-cache").exists()


def unusable(tmp_path):
    """A root that cannot be made, for root as for anybody: there is a file in its way."""
    (tmp_path / "file").write_text("")
    return EngineCache(tmp_path / "file" / "engines")


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, get, caplog):
    builder = Builder()
    for _ in range(2):
        assert get(fill=builder, cache=unusable(tmp_path)).read_bytes() == PLAN
    assert builder.builds == 2
    assert caplog.records[0].levelname == "WARNING"
    assert "no engine cache: " in caplog.text
    assert "Not a directory" in caplog.text
    assert "set POCKETGAN_CACHE to a folder that can" in caplog.text
    assert unusable(tmp_path).entries() == []


def test_a_read_only_cache_is_done_without(cache, get, caplog):
    get()
    cache.root.chmod(0o555)
    builder = Builder()
    try:
        if os.access(cache.root, os.W_OK):
            pytest.skip("this user may write where nobody may; the test before stands for it")
        get(make_key(threads=1), builder)
    finally:
        cache.root.chmod(0o755)
    assert builder.builds == 1
    assert "Permission denied" in caplog.text


def test_a_disk_that_is_full_keeps_nothing_and_hands_the_engine_over(
    cache, get, caplog, monkeypatch
):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "_to_disk", full)
        assert get().read_bytes() == PLAN
    assert "not kept in the engine cache" in caplog.text
    assert "No space left on device" in caplog.text
    assert cache.entries() == []
    assert not list(cache.root.glob(".*.building"))


def test_all_is_on_the_disk_before_the_entry_appears(cache, get, monkeypatch):
    seen = []

    def to_disk(path):
        seen.append((path.name, (cache.root / KEY.digest).exists()))

    monkeypatch.setattr(cache_module, "_to_disk", to_disk)
    get()
    before = {name for name, appeared in seen if not appeared}
    assert {"engine.plan", "notes.json", "key.json", "key.json.sha256", "engine"} < before
    assert [name for name, appeared in seen if appeared] == ["engines"]


def fill_with(cache, get, count):
    """Keys of engines of about 10 kB, the first used longest ago."""
    keys = [make_key(threads=number + 1) for number in range(count)]
    for age, key in enumerate(reversed(keys)):
        get(key, Builder(bytes(10_000)), cache)
        os.utime(cache.root / key.digest / "key.json", (1e9 - age, 1e9 - age))
    return keys


def digests(cache):
    return {entry.digest for entry in cache.entries()}


def test_what_was_not_used_for_longest_goes_first(cache, get):
    keys = fill_with(cache, get, 4)
    size = max(entry.bytes for entry in cache.entries())
    get(keys[0])  # and so is not the oldest any more
    small = EngineCache(cache.root, limit_bytes=3 * size + 100)
    new = make_key(threads=9)
    get(new, Builder(bytes(10_000)), small)
    assert digests(small) == {keys[0].digest, keys[3].digest, new.digest}
    assert sum(entry.bytes for entry in small.entries()) <= small.limit_bytes


def test_what_is_in_use_is_never_removed(cache, get):
    keys = fill_with(cache, get, 3)
    small = EngineCache(cache.root, limit_bytes=20_000)
    with hold(cache.root / f".{keys[0].digest}.lock", wait=True):
        get(make_key(threads=9), Builder(bytes(10_000)), small)
        assert not cache.remove(keys[0].digest)
        assert keys[0].digest in digests(small)
    assert cache.remove(keys[0].digest)
    assert keys[0].digest not in digests(small)


def test_an_engine_over_the_limit_is_not_kept_and_drives_nothing_out(cache, get, caplog):
    keys = fill_with(cache, get, 2)
    small = EngineCache(cache.root, limit_bytes=40_000)
    with caplog.at_level("INFO"):
        assert get(make_key(threads=9), Builder(bytes(50_000)), small).is_file()
    assert "not kept: " in caplog.text
    assert digests(small) == {key.digest for key in keys}


def test_the_lock_of_a_removed_entry_goes_with_it(cache, get):
    get()
    assert cache.remove(KEY.digest)
    assert list(cache.root.iterdir()) == []


def test_a_sweep_removes_locks_of_nothing_and_no_entry(cache, get):
    get()
    (cache.root / f".{'0' * 64}.lock").touch()
    (cache.root / f".{KEY.digest}.building").mkdir()
    cache.sweep()
    assert sorted(path.name for path in cache.root.iterdir()) == sorted(
        [KEY.digest, f".{KEY.digest}.lock"]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks there")
def test_a_lock_whose_file_went_while_it_was_waited_for_is_taken_anew(tmp_path, caplog):
    path = tmp_path / "lock"
    found = []

    def wait():
        with hold(path, wait=True):
            found.append(path.exists())

    waiting = threading.Thread(target=wait)
    with caplog.at_level("INFO"), hold(path, wait=True):
        waiting.start()
        while "waiting for it" not in caplog.text:
            time.sleep(0.001)
        path.unlink()
    waiting.join(10)
    assert found == [True], "else a third process would make the file, lock it and build as well"


def test_a_lock_is_held_against_threads_too_and_passes_errors_on(tmp_path):
    path = tmp_path / "lock"
    with hold(path, wait=True), hold(path, wait=False) as again:
        assert not again
    with pytest.raises(FileNotFoundError, match="mine"), hold(path, wait=True):
        raise FileNotFoundError("mine")
    with hold(path, wait=False) as free:
        assert free


def test_an_entry_tells_what_it_is(cache, get):
    get()
    (entry,) = cache.entries()
    assert entry.face.key == KEY
    assert (entry.face.name, entry.face.engine_file) == ("restore", "engine.plan")
    assert entry.bytes > len(PLAN)
    assert entry.face.build_seconds >= 0
    assert damage(entry) is None


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"sha256": {"../key.json": "0"}}, "names '../key.json', which is no plain file name"),
        ({"engine_file": "other.plan"}, "has no digest of its engine other.plan"),
    ],
)
def test_a_face_that_was_sealed_wrongly_is_damage(cache, get, change, wrong):
    get()
    folder = cache.root / KEY.digest
    (entry,) = cache.entries()
    face = folder / "key.json"
    face.write_text(entry.face.model_copy(update=change).model_dump_json())
    sha256 = cache_module.digest(face)
    (folder / "key.json.sha256").write_text(cache_module.seal_text(sha256, "key.json"))
    (entry,) = cache.entries()
    assert wrong in damage(entry)


def test_the_root_is_in_the_folder_that_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("POCKETGAN_CACHE", str(tmp_path))
    assert default_root() == tmp_path / "engines"
