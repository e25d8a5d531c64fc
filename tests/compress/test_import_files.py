"""Files of weights: what is in them is read, and what would run is not."""

import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.importing import keras
from compress.importing.readers import read
from compress.importing.recognise import clean, network_of, recognise
from tests.compress.test_import_layouts import answers, assert_same, made

STATE = {"0.weight": torch.ones(2, 3, 1, 1), "0.bias": torch.zeros(2)}


class Trap:
    """Makes a file when it is unpickled, by whatever means."""

    def __init__(self, call, *arguments):
        self.made = call, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("call", [open, os.system, eval], ids=lambda call: call.__name__)
def test_a_file_that_would_run_code_is_refused(tmp_path, call, zipped):
    sprung, path = tmp_path / "sprung", tmp_path / "weights.pth"
    arguments = {
        open: (str(sprung), "w"),
        os.system: (f"touch {sprung}",),
        eval: (f"open({str(sprung)!r}, 'w')",),
    }[call]
    content = {"state_dict": STATE, "extra": Trap(call, *arguments)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"more than weights: .* can run any code.*not opened"):
        read(path)
    assert not sprung.exists()


def test_the_trap_works(tmp_path):
    """Or the test above would show nothing."""
    sprung = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(os.system, f"touch {sprung}")))
    assert sprung.exists()


def test_a_pickled_module_is_refused_with_its_cure(tmp_path):
    torch.save(nn.Sequential(nn.Conv2d(3, 3, 1)), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"Sequential.*torch\.save\(network\.state_dict\(\)"):
        read(tmp_path / "net.pth")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_plain_files_load(tmp_path, zipped):
    path = tmp_path / "latest_net_G.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    source = read(path)
    assert list(source.networks) == [""]
    assert torch.equal(source.networks[""]["0.weight"], STATE["0.weight"])
    assert (source.format, source.dropped) == ("torch", {})


def test_the_dict_of_gcc_with_a_score_that_numpy_computed(tmp_path):
    content = {"G": STATE, "D": STATE, "epoch": 7, "cfg": ([1, 2], [3]), "fid": np.float64(61.5)}
    torch.save(content, tmp_path / "model.pth")
    source = read(tmp_path / "model.pth")
    assert list(source.networks) == ["G", "D"]
    assert source.dropped == {
        "epoch": "no tensor, but 7",
        "cfg": "no tensor, but a tuple of 2",
        "fid": "no tensor, but 61.5",
    }


def test_a_numpy_array_is_no_number(tmp_path):
    torch.save({"G": STATE, "fid": np.zeros(3)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"more than weights: .*_reconstruct"):
        read(tmp_path / "model.pth")


def test_of_two_wrappers_the_average_is_taken(tmp_path):
    other = {key: tensor + 1 for key, tensor in STATE.items()}
    torch.save({"params": other, "params_ema": STATE}, tmp_path / "x4.pth")
    source = read(tmp_path / "x4.pth")
    assert torch.equal(source.networks[""]["0.bias"], STATE["0.bias"])
    assert source.notes == ("took 'params_ema', not 'params'",)
    assert source.dropped == {"params": "the same network as 'params_ema'"}


def test_networks_may_lie_deeper_and_beside_an_optimizer(tmp_path):
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))]).state_dict()
    torch.save({"model": {"G": STATE, "D": STATE}, "optimizer": optimizer}, tmp_path / "c.pth")
    assert list(read(tmp_path / "c.pth").networks) == ["model/G", "model/D"]


def zip_of(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def tar_file(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def cut(path):
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.pt", zip_of("a/data.pkl", "a/constants.pkl"), r"is TorchScript.*jit\.load\(FILE\)"),
        ("a.zip", zip_of("x/hello.txt"), r"a zip archive, but no torch file: it holds hello\.txt"),
        ("a.pth", tar_file, "saved by torch 0.1 or older"),
        ("a.pth", cut, "is damaged"),
        (
            "a.pth",
            lambda path: path.write_text("<html>"),
            "no file of weights .*starts with b'<htm",
        ),
        ("a.pth", lambda path: path.write_bytes(b""), "no file of weights"),
        ("a.pth", lambda path: path.write_bytes(pickle.dumps({"a": 1}, 2)), "damaged"),
        ("a.pth", lambda path: path.write_bytes(pickle.dumps({"a": 1}, 5)), "torch did not write"),
        (
            "a.pth",
            lambda path: torch.save([torch.zeros(1)], path),
            "no tensors with names, but a l",
        ),
        ("a.pth", lambda path: torch.save({}, path), "no tensors with names, but a dict of 0"),
        (
            "a.safetensors",
            lambda path: path.write_bytes(b"\x10" + b"\0" * 7 + b"{rubbish"),
            "looks like safetensors but is damaged",
        ),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*gone\.pth"):
        read(tmp_path / "gone.pth")


def test_what_a_safetensors_header_says_is_noted(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors", {"format": "pt", "io": "BGR"})
    source = read(tmp_path / "a.safetensors")
    assert source.notes == ("its header says io: BGR",)
    assert set(source.networks[""]) == set(STATE)


# ---- ncnn ----


def write_ncnn(network, param, *, half=True, tail=""):
    """The convolutions and slopes of a network in the order they are made."""
    lines, data = [], b""
    modules = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.PReLU)]
    for number, module in enumerate(modules):
        if isinstance(module, nn.PReLU):
            lines.append(f"PReLU p{number} 1 1 {number} {number + 1} 0={module.num_parameters}")
            data += module.weight.detach().numpy().tobytes()
            continue
        count = module.weight.numel()
        lines.append(
            f"Convolution c{number} 1 1 {number} {number + 1} "
            f"0={module.out_channels} 1=3 4=1 5=1 6={count} -23310=1,2.000000e-01"
        )
        weight = module.weight.detach().numpy()
        if half:
            stored = weight.astype("<f2").tobytes()
            data += struct.pack("<I", 0x01306B47) + stored + b"\0" * (-len(stored) % 4)
        else:
            data += struct.pack("<I", 0) + weight.tobytes()
        data += module.bias.detach().numpy().tobytes()
    lines = ["Input data 0 1 0", *lines, *filter(None, [tail])]
    param.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    param.with_suffix(".bin").write_bytes(data)


@pytest.mark.parametrize("half", [True, False], ids=["fp16", "fp32"])
@pytest.mark.parametrize("name", ["rrdb x4", "srvgg x4", "srvgg x2"])
def test_ncnn_files(tmp_path, name, half):
    network = made(name)
    for module in network.modules():
        if half and isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.half().float()
    write_ncnn(network, tmp_path / "x.param", half=half)
    for file in ("x.param", "x.bin"):
        source = read(tmp_path / file)
        assert [path.name for path in source.files] == ["x.param", "x.bin"]
        tensors = clean(source.networks[""]).tensors
        assert_same(network, network_of(recognise(tensors, source.format, {})))


def test_an_ncnn_graph_that_shrinks_its_output_says_so(tmp_path):
    write_ncnn(made("srvgg x4"), tmp_path / "x.param", tail="Interp r 1 1 5 out 0=3 1=0.5 2=0.5")
    assert "ends in a resize by 0.5" in read(tmp_path / "x.param").notes[0]


def spoil_param(old, new):
    def spoil(folder):
        path = folder / "x.param"
        path.write_text(path.read_text().replace(old, new, 1))

    return spoil


def spoil_bin(change):
    def spoil(folder):
        path = folder / "x.bin"
        path.write_bytes(change(path.read_bytes()))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "x.bin").unlink(), r"there is no x\.bin beside it"),
        (spoil_bin(lambda data: data[:-4]), "ends too early"),
        (spoil_bin(lambda data: data + b"1234"), "has 4 bytes more than x.param tells of"),
        (spoil_bin(lambda data: b"\x38\x4b\x0d\0" + data[4:]), r"flag 0xd4b38"),
        (spoil_param("Convolution c0", "Gemm c0"), "layers that are not read here: Gemm"),
        (spoil_param(" 6=", " 8=1 6="), "c0 is quantized"),
        (spoil_param("0=4 1=3", "0=4 1=x"), "damaged"),
        (spoil_param("Convolution c0 1", "Convolution c0 one"), "damaged at the line 'Convolution"),
    ],
)
def test_broken_ncnn_files(tmp_path, spoil, message):
    write_ncnn(made("srvgg x4"), tmp_path / "x.param")
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "x.param")


# ---- Keras ----


def keras_layers(name):
    """Layers of one of our SRGAN networks as Keras would hold them, in its order.

    The reverse of what the import does, written with numpy and TensorFlow's definitions:
    ``depth_to_space`` takes channel ``(dy * 2 + dx) * C + c``, ``Flatten`` goes over H, W, C.
    """
    layers = []
    network = made(name)
    for path, module in network.named_modules():
        values = {k: t.detach().numpy() for k, t in module.state_dict().items()}
        if isinstance(module, nn.Conv2d):
            kernel, bias = values["weight"].transpose(2, 3, 1, 0), values["bias"]
            if path.endswith(".conv"):
                kernel, bias = (
                    a.reshape(*a.shape[:-1], -1, 4).swapaxes(-1, -2).reshape(a.shape)
                    for a in (kernel, bias)
                )
            layers.append(("conv2d", {"kernel": kernel, "bias": bias}))
        elif isinstance(module, nn.BatchNorm2d):
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            ours = ("weight", "bias", "running_mean", "running_var")
            theirs = {k: values[o] for k, o in zip(names, ours, strict=True)}
            layers.append(("batch_normalization_v1", theirs))
        elif isinstance(module, nn.PReLU):
            layers.append(("p_re_lu", {"alpha": values["weight"][None, None]}))
        elif isinstance(module, nn.Linear):
            kernel = values["weight"]
            if path == "fc1":
                kernel = kernel.reshape(len(kernel), -1, 6, 6).transpose(0, 2, 3, 1)
                kernel = kernel.reshape(len(kernel), -1)
            layers.append(("dense", {"kernel": kernel.T, "bias": values["bias"]}))
        elif isinstance(module, nn.LeakyReLU):
            layers.append(("leaky_re_lu", {}))
    return layers


def write_keras(layers, path, *, inside=None):
    h5py = pytest.importorskip("h5py", reason="needs the extra `keras`")
    with h5py.File(path, "w") as file:
        group = file.create_group(inside) if inside else file
        names = [f"{kind}_{number}" for number, (kind, _) in enumerate(layers)]
        group.attrs["layer_names"] = [name.encode() for name in names]
        for name, (_, weights) in zip(names, layers, strict=True):
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in weights]
            for key, array in weights.items():
                layer[f"{name}/{key}:0"] = array


@pytest.mark.parametrize("inside", [None, "model_weights"], ids=["weights", "whole model"])
@pytest.mark.parametrize("name", ["srgan", "srgan discriminator"])
def test_keras_files(tmp_path, name, inside):
    write_keras(keras_layers(name), tmp_path / "w.h5", inside=inside)
    source = read(tmp_path / "w.h5")
    network = network_of(recognise(clean(source.networks[""]).tensors, "keras", {}))
    assert network.spec == made(name).spec
    torch.testing.assert_close(answers(network), answers(made(name)), rtol=0, atol=1e-6)


def test_a_keras_file_of_another_network_is_refused(tmp_path):
    write_keras(keras_layers("srgan")[:-1], tmp_path / "w.h5")
    tensors = read(tmp_path / "w.h5").networks[""]
    with pytest.raises(ValueError, match=r"of no network we know: conv2d_0\.weight"):
        recognise(tensors, "keras", {})


def test_other_hdf5_files_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs the extra `keras`")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["x"] = [1.0]
    with pytest.raises(ValueError, match="HDF5, but not as Keras 1 and 2 write it"):
        read(tmp_path / "w.h5")
    (tmp_path / "broken.h5").write_bytes(keras.MAGIC + b"rubbish")
    with pytest.raises(ValueError, match=r"broken\.h5 is a damaged HDF5 file"):
        read(tmp_path / "broken.h5")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "w.h5").write_bytes(keras.MAGIC)
    with pytest.raises(ValueError, match=r"needs h5py: pip install 'pocketgan\[keras\]'"):
        read(tmp_path / "w.h5")
