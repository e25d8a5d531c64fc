import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from onnx import TensorProto, helper

from deploy.imaging import decode
from deploy.main import main
from deploy.signing import generate, sign
from tests.pictures import encode_png


def engine_of(operator):
    """An ONNX file of one operator on images of any size."""
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("input", "output")
    ]
    graph = helper.make_graph(
        [helper.make_node(operator, ["input"], ["output"])], "g", images[:1], images[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


@contextmanager
def program(folder, *flags, **variables):
    """``pocketgan serve`` in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.main", "serve", str(folder), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *arguments])
    return capsys.readouterr().err


def test_serve_answers_and_finishes_what_it_has_begun(seal_bundle, photo):
    pixels = photo(50, 70)
    data = encode_png(pixels)
    with program(seal_bundle(engine_of("Neg")), "--port", "0") as process:
        line = process.stdout.readline()
        said = re.fullmatch(
            r"negative \(fp32, onnxruntime\) at (http://127\.0\.0\.1:(\d+))  try: "
            r"curl --data-binary @photo\.jpg \1/v1/translate --output translated\.png\n",
            line,
        )
        assert said, line
        url, port = said.groups()
        wait_until_ready(url)
        with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as connection:
            connection.sendall(
                b"POST /v1/translate HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                b"Content-Length: %d\r\n\r\n" % len(data)
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 100")  # it waits for the body
            process.send_signal(signal.SIGTERM)
            connection.sendall(data)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert process.wait(20) == 0

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    np.testing.assert_array_equal(decode(body), 255 - pixels)


def test_an_engine_that_is_not_what_was_sealed_ends_the_program(seal_bundle):
    with program(seal_bundle(engine_of("Identity")), "--port", "0") as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "pocketgan serve: " in said
    assert "on this machine the engine does not reproduce the golden pairs" in said
    assert "Traceback" not in said


def test_a_file_that_is_no_engine_ends_the_program(seal_bundle):
    with program(seal_bundle(b"not ONNX"), "--port", "0") as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "engine.onnx" in said
    assert "Traceback" not in said


def test_a_corrupt_bundle_is_refused_before_anything_listens(seal_bundle, capsys):
    folder = seal_bundle()
    (folder / "engine.onnx").write_bytes(b"other")
    assert re.search(
        r"pocketgan serve: .*engine\.onnx does not match its digest", refusal(capsys, str(folder))
    )


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    said = refusal(capsys, str(tmp_path / "nothing"))
    assert re.search(r"nothing.*is not a complete bundle", said)


def test_a_setting_that_is_wrong_is_named(seal_bundle, capsys, monkeypatch):
    monkeypatch.setenv("POCKETGAN_MAX_PIXELS", "many")
    said = refusal(capsys, str(seal_bundle()))
    assert said.startswith("pocketgan serve: POCKETGAN_MAX_PIXELS = 'many': Input should be")


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_that_is_none(seal_bundle, capsys, port):
    assert f"{port!r} is not a port (0 to 65535)" in refusal(
        capsys, str(seal_bundle()), f"--port={port}"
    )


def test_a_port_that_is_taken(seal_bundle, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(capsys, str(seal_bundle()), "--port", str(port))
    assert f"cannot listen on 127.0.0.1 port {port}: " in said
    assert "choose another with --port (0 for any free one)" in said


def test_with_trusted_keys_an_unsigned_bundle_is_not_served(
    seal_bundle, tmp_path, capsys, monkeypatch
):
    public, _ = generate(tmp_path / "maker")
    monkeypatch.setenv("POCKETGAN_TRUSTED_KEYS", str(public))
    # bytes that no runtime could open: it is refused before one tries
    said = refusal(capsys, str(seal_bundle(b"no engine")))
    assert f"is not signed, and only bundles signed by a key of {public} are accepted" in said


def test_a_signed_bundle_is_served(seal_bundle, tmp_path):
    public, _ = generate(tmp_path / "maker")
    folder = seal_bundle(engine_of("Neg"))
    sign(folder, tmp_path / "maker")
    variables = {"POCKETGAN_TRUSTED_KEYS": str(public)}
    with program(folder, "--port", "0", **variables) as process:
        assert process.stdout.readline().startswith("negative (fp32, onnxruntime) at http://")


def test_the_help_names_every_setting(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["serve", "--help"])
    said = "".join(capsys.readouterr().out.split())
    for setting in ("HOST", "PORT", "MAX_BODY_BYTES", "MAX_PIXELS", "WAIT_TIMEOUT_S", "LOG_LEVEL"):
        assert f"POCKETGAN_{setting}" in said


def wait_until_ready(url):
    for _ in range(400):
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=20) as response:
                assert response.status == 200
                return
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.05)
    raise AssertionError("never ready")
