import json

import pytest

from deploy import baselines
from deploy.baselines import ACCEPTED, Accepted, Store
from devices.sealed import MANIFEST, BundleError, digest, read_sealed
from tests.deploy.report_bundle import make_bundle


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def bundles(tmp_path):
    """Bundles that differ in a name."""
    return [make_bundle(tmp_path / f"bundle{n}", name=f"tiny{n}").path for n in range(4)]


def kept(store):
    return {path.name for path in (store.root / "restore" / "here").iterdir()}


def test_nothing_is_accepted_at_first(store):
    assert store.accepted("restore", "here") is None
    assert store.baseline("restore", "here") is None
    assert not store.root.exists()


def test_what_was_accepted_is_the_baseline(store, bundles):
    accepted = store.accept("restore", bundles[0])
    assert (accepted.name, accepted.device, accepted.before) == ("restore", "here", None)
    assert accepted.sha256 == digest(bundles[0] / MANIFEST)
    baseline = store.baseline("restore", "here")
    assert digest(baseline / MANIFEST) == accepted.sha256
    read_sealed(baseline)
    assert store.accepted("restore", "here") == accepted
    # a copy: the candidate may be made again
    (bundles[0] / "engine.onnx").write_bytes(b"")
    read_sealed(store.baseline("restore", "here"))


def test_devices_and_jobs_are_kept_apart(store, bundles, tmp_path):
    other = make_bundle(tmp_path / "other", profile={"name": "there"}).path
    store.accept("restore", bundles[0])
    store.accept("restore", other)
    store.accept("upscale", bundles[1])
    names = {store.baseline(*at) for at in (("restore", "here"), ("restore", "there"))}
    assert len(names) == 2
    assert store.accepted("upscale", "here").before is None
    assert store.baseline("upscale", "there") is None


def test_the_one_before_is_kept_and_no_other(store, bundles):
    digests = [store.accept("restore", bundle).sha256 for bundle in bundles]
    assert store.accepted("restore", "here").before == digests[2]
    assert kept(store) == {ACCEPTED, digests[2], digests[3]}


def test_going_back_to_the_one_before_is_accepting_it(store, bundles):
    first, second = (store.accept("restore", bundle).sha256 for bundle in bundles[:2])
    accepted = store.accept("restore", bundles[0])
    assert (accepted.sha256, accepted.before) == (first, second)
    assert kept(store) == {ACCEPTED, first, second}


def test_accepting_the_same_again_changes_nothing(store, bundles):
    store.accept("restore", bundles[0])
    before = store.accept("restore", bundles[1])
    assert store.accept("restore", bundles[1]) == before


def test_a_bundle_that_was_damaged_in_the_store_is_refused(store, bundles):
    store.accept("restore", bundles[0])
    (store.baseline("restore", "here") / "engine.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"engine\.onnx does not match"):
        store.baseline("restore", "here")


def test_a_bundle_that_was_replaced_in_the_store_is_refused(store, bundles):
    accepted = store.accept("restore", bundles[0])
    folder = store.root / "restore" / "here"
    (folder / accepted.sha256).rename(folder / "away")
    bundles[1].rename(folder / accepted.sha256)
    with pytest.raises(BundleError, match="not that of the bundle that was accepted"):
        store.baseline("restore", "here")


def test_a_damaged_candidate_is_not_accepted(store, bundles):
    first = store.accept("restore", bundles[0])
    (bundles[1] / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"golden\.npz does not match"):
        store.accept("restore", bundles[1])
    assert store.accepted("restore", "here") == first
    assert kept(store) == {ACCEPTED, first.sha256}


def test_a_full_disk_leaves_what_was_accepted(store, bundles, monkeypatch):
    first = store.accept("restore", bundles[0])

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(baselines.shutil, "copytree", full)
    with pytest.raises(OSError, match="no space left"):
        store.accept("restore", bundles[1])
    assert store.accepted("restore", "here") == first
    assert kept(store) == {ACCEPTED, first.sha256}


def test_a_kill_between_copy_and_record_leaves_what_was_accepted(store, bundles, monkeypatch):
    first = store.accept("restore", bundles[0])

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(baselines, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.accept("restore", bundles[1])
    assert store.accepted("restore", "here") == first
    read_sealed(store.baseline("restore", "here"))


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b"])
def test_a_name_cannot_lead_out_of_the_store(store, bundles, name):
    with pytest.raises(ValueError, match="cannot name a folder of the store"):
        store.accept(name, bundles[0])
    with pytest.raises(ValueError, match="cannot name a folder of the store"):
        store.baseline(name, "here")


@pytest.mark.parametrize("change", [{"sha256": "../../x"}, {"schema_version": 2}, {"more": 1}])
def test_a_record_that_is_none_is_refused(store, bundles, change):
    accepted = store.accept("restore", bundles[0])
    record = store.root / "restore" / "here" / ACCEPTED
    record.write_text(json.dumps(json.loads(accepted.model_dump_json()) | change))
    with pytest.raises(ValueError, match=r"accepted\.json: .*delete it and accept a bundle again"):
        store.baseline("restore", "here")


def test_the_record_is_what_it_was(store, bundles):
    accepted = store.accept("restore", bundles[0])
    text = (store.root / "restore" / "here" / ACCEPTED).read_text()
    assert Accepted.model_validate_json(text) == accepted
