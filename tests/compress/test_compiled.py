import sysconfig

import pytest
import torch
from torch import nn

from compress.compiled import compiled, require_compiler
from compress.features import forward_with_features
from compress.loop import Schedule
from compress.samples import Samples
from compress.stage import Options, run_stage
from tests.compress.conftest import tiny_generator
from tests.compress.small import Silent, SmallGenerator, batch_at, relay, weights
from tests.compress.test_stage import IMAGES

CPU = torch.device("cpu")


@pytest.fixture
def fake(monkeypatch):
    """Counts what would be compiled instead of compiling it."""
    calls = []

    def compile_(forward, **_options):
        def counted(*args):
            calls.append(forward.__self__)
            return forward(*args)

        return counted

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr("compress.compiled.require_compiler", lambda device: None)
    return calls


def test_blocks_are_compiled_and_taps_still_seen(fake):
    network = tiny_generator(4)
    image = torch.rand(1, 3, 64, 64)
    want = forward_with_features(network, image, network.taps)
    with compiled([network], CPU):
        got = forward_with_features(network, image, network.taps)
    assert [type(module).__name__ for module in fake] == ["ResnetBlock"] * 9
    assert torch.equal(got[0], want[0])
    assert all(torch.equal(a, b) for a, b in zip(got[1], want[1], strict=True))
    fake.clear()
    network(image)
    assert fake == []
    assert not any("forward" in vars(module) for module in network.modules())


def test_a_network_without_taps_is_compiled_as_a_whole(fake):
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    with compiled([network], CPU):
        network(torch.rand(1, 3, 2, 2))
    assert fake == [network]


def test_taps_between_single_layers_leave_nothing_and_that_is_said(fake, caplog):
    network = SmallGenerator()
    network.taps = ("block.0.0", "block.1.0")
    with compiled([network], CPU):
        network(torch.rand(1, 3, 8, 8))
    assert fake == []
    assert "compile = true changes nothing" in caplog.text


def test_a_machine_without_compiler_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler, and there is no .*: install"):
        require_compiler(CPU)
    monkeypatch.setenv("CXX", "my-own-c++")
    with pytest.raises(ValueError, match=r"there is no my-own-c\+\+ here"):
        require_compiler(CPU)


def test_a_machine_without_headers_says_what_to_install(monkeypatch, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"needs Python's headers, and there is no .*Python\.h"):
        require_compiler(CPU)


def test_a_gpu_without_triton_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs triton on a GPU"):
        require_compiler(torch.device("cuda"))


def test_a_path_that_torch_cannot_link_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: True)
    monkeypatch.setattr(torch, "__file__", "/home/a b/torch/__init__.py")
    with pytest.raises(ValueError, match="links against /home/a b/torch, and torch does not quote"):
        require_compiler(CPU)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch's own older parts
def test_a_compiled_stage_resumes_exactly_and_agrees_with_an_eager_one(tmp_path):
    try:
        require_compiler(CPU)
    except ValueError as missing:
        pytest.skip(str(missing))

    def stage(out, steps, **options):
        method = relay()
        run_stage(
            "small",
            method,
            batch_at,
            Schedule(4, 1e-3),
            Options(2, **options),
            student=method.networks["student"],
            out=out,
            run="a",
            progress=Stop(steps),
            samples=Samples(IMAGES),
        )
        return weights(method)

    eager, unbroken = stage(tmp_path / "e", 9), stage(tmp_path / "a", 9, compile=True)
    with pytest.raises(InterruptedError):
        stage(tmp_path / "b", 3, compile=True)
    resumed = stage(tmp_path / "b", 9, compile=True)
    for name, tensor in unbroken.items():
        assert torch.equal(resumed[name], tensor), name
        torch.testing.assert_close(tensor, eager[name], rtol=1e-3, atol=1e-4)


class Stop(Silent):
    """Interrupts after a step."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def step(self, step, losses):
        if step == self.at:
            raise InterruptedError
