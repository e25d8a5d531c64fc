import asyncio
import io
import subprocess
import sys
import threading
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from deploy.imaging import ImageTooLargeError
from deploy.main import main
from devices.session import StubSession
from serving.files import plan_tasks, run_tasks, write_whole
from serving.local import LocalEngine
from serving.negotiate import Output
from serving.video import VideoError, translate_video
from serving.work import TranslationError
from tests.conftest import ROOT
from tests.serving.pictures import noise, saved, slope


@pytest.fixture
def bundle(seal_bundle):
    """A bundle whose engine makes negatives."""
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("input", "output")
    ]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["input"], ["output"])], "g", images[:1], images[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return seal_bundle(model.SerializeToString())


@pytest.fixture
def photos(tmp_path):
    """A folder of images of every format, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    image = Image.fromarray(slope(24, 40))
    (folder / "a.png").write_bytes(saved(image, "PNG"))
    (folder / "b.JPG").write_bytes(saved(image, "JPEG", quality=95))
    (folder / "trip" / "c.webp").write_bytes(saved(image, "WEBP", lossless=True))
    (folder / ".thumb.png").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("no image")
    return folder


def read(path):
    with Image.open(path) as image:
        return image.format, np.asarray(image.convert("RGB")).astype(int)


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["translate", *map(str, arguments)])
    return capsys.readouterr().err


def test_a_folder_is_translated_file_by_file(bundle, photos, tmp_path, capsys):
    out = tmp_path / "out"

    assert main(["translate", str(photos), "--bundle", str(bundle), "--out", str(out)]) == 0

    assert capsys.readouterr().out == f"3 of 3 translated into {out}\n"
    made = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert made == {"a.png", "b.JPG", "trip/c.webp"}
    want = 255 - slope(24, 40).astype(int)
    for name, form, close in (
        ("a.png", "PNG", 0),
        ("b.JPG", "JPEG", 8),
        ("trip/c.webp", "WEBP", 16),
    ):
        found, pixels = read(out / name)
        assert found == form
        assert np.abs(pixels - want).max() <= close


def test_format_quality_and_size(bundle, photos, tmp_path):
    out = tmp_path / "out"
    options = ["--format", "jpeg", "--quality", "100", "--size", "model", "--jobs", "1"]
    photo = str(photos / "a.png")
    assert main(["translate", photo, "--bundle", str(bundle), "--out", str(out), *options]) == 0
    form, pixels = read(out / "a.jpg")
    assert (form, pixels.shape) == ("JPEG", (19, 32, 3))  # the model was made for 32 x 32


def test_a_file_that_fails_is_named_and_does_not_stop_the_others(bundle, photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "out"

    assert main(["translate", str(photos), "--bundle", str(bundle), "--out", str(out)]) == 1

    said = capsys.readouterr()
    assert said.out == f"3 of 4 translated into {out}\n"
    assert f"pocketgan translate: {photos / 'broken.png'}: the image is damaged" in said.err
    assert not (out / "broken.png").exists()
    assert not list(out.rglob("*.part*"))


def test_the_limits_are_those_of_the_server(bundle, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("POCKETGAN_MAX_PIXELS", "500")
    arguments = ["translate", str(photos / "a.png"), "--bundle", str(bundle), "--out"]
    assert main([*arguments, str(tmp_path / "x")]) == 1
    assert "the limit is 500; size=max shrinks it to fit" in capsys.readouterr().err
    assert main([*arguments, str(tmp_path / "y"), "--size", "max"]) == 1
    assert "with the model's padding; the limit is 500" in capsys.readouterr().err
    monkeypatch.setenv("POCKETGAN_MAX_PIXELS", "640")
    assert main([*arguments, str(tmp_path / "y"), "--size", "max"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quality", "0"], "'0' is not a whole number from 1 to 100"),
        (["--jobs", "33"], "'33' is not a whole number from 1 to 32"),
        (["--format", "png", "--quality", "9"], "--quality is for jpeg and webp; a PNG loses"),
        (["--format", "gif"], "invalid choice: 'gif'"),
        (["--key-file", "k"], "--key-file is for --server; a bundle wants no key"),
        (["--server", "http://x"], "not allowed with argument --bundle"),
    ],
)
def test_options_that_are_wrong(photos, capsys, options, said):
    assert said in refusal(capsys, photos, "--bundle", "b", "--out", "o", *options)


def test_what_runs_the_engine_must_be_named(photos, capsys):
    assert "one of the arguments --bundle --server is required" in refusal(
        capsys, photos, "--out", "o"
    )


def test_a_bundle_that_is_not_there(photos, tmp_path, capsys):
    said = refusal(capsys, photos, "--bundle", tmp_path / "nothing", "--out", tmp_path / "out")
    assert "nothing is not a complete bundle" in said.replace("\n", " ")


@contextmanager
def server(*, busy=0):
    """A server that makes a flat image, and is busy at first."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            asked = parse_qs(urlsplit(self.path).query)
            asked["key"] = self.headers["authorization"]
            seen.append(asked)
            if len(seen) <= busy:
                return self.answer(503, b'{"detail": "busy"}', "application/problem+json")
            if body.startswith(b"broken"):
                return self.answer(422, b'{"detail": "damaged"}', "application/problem+json")
            (form,) = asked["format"]
            return self.answer(200, saved(Image.new("RGB", (4, 4)), form), f"image/{form}")

        def answer(self, status, body, kind):
            self.send_response(status)
            for name, value in (
                ("content-type", kind),
                ("retry-after", "0"),
                ("server-timing", "x"),
            ):
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", seen
        finally:
            running.shutdown()
            thread.join()


def test_a_server_does_the_work(photos, tmp_path, capsys):
    (photos / "broken.png").write_bytes(b"broken")
    (photos / "film.mp4").write_bytes(b"film")
    out = tmp_path / "out"
    (tmp_path / "key").write_text("secret\n")
    with server(busy=2) as (url, seen):
        options = ["--server", url, "--key-file", str(tmp_path / "key")]
        options += ["--out", str(out), "--quality", "70", "--size", "max"]
        assert main(["translate", str(photos), *options]) == 1

    said = capsys.readouterr()
    assert said.out == f"3 of 5 translated into {out}\n"
    assert f"{photos / 'broken.png'}: 422: damaged" in said.err
    assert "film.mp4: a server takes images; translate videos with --bundle" in said.err
    assert read(out / "trip" / "c.webp")[0] == "WEBP"
    assert len(seen) == 6
    assert {(*asked["size"], asked["key"]) for asked in seen} == {("max", "Bearer secret")}
    assert {asked["format"][0]: asked.get("quality") for asked in seen} == {
        "png": None,
        "jpeg": ["70"],
        "webp": ["70"],
    }


def test_the_example_does_the_same(photos, tmp_path):
    (photos / "broken.png").write_bytes(b"broken")
    example = [sys.executable, str(ROOT / "examples" / "translate_async.py")]
    names = ("a.png", "b.JPG", "broken.png")
    with server(busy=1) as (url, _):
        ran = subprocess.run(
            [*example, url, str(tmp_path / "out"), *(str(photos / name) for name in names)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ran.returncode == 1
    assert ran.stderr == f"{photos / 'broken.png'}: 422: damaged\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.jpg"]


def test_without_the_client_its_extra_is_named(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.delitem(sys.modules, "serving.client", raising=False)
    said = refusal(capsys, photos, "--server", "http://127.0.0.1:1", "--out", tmp_path / "out")
    assert "--server needs httpx2: pip install 'pocketgan[client]'" in said


def test_plans_keep_names_and_change_suffixes(photos, tmp_path):
    out = tmp_path / "out"
    tasks = plan_tasks([photos], out, "webp")
    assert [str(task.target.relative_to(out)) for task in tasks] == [
        "a.webp",
        "b.webp",
        "trip/c.webp",
    ]
    (task,) = plan_tasks([photos / "notes.txt"], out, None)
    assert (task.target.name, task.format) == ("notes.png", "png")


def test_answers_of_the_last_time_are_no_questions(photos):
    out = photos / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"an answer")
    assert len(plan_tasks([photos], out, None)) == 3


def test_plans_that_cannot_be(photos, tmp_path):
    with pytest.raises(ValueError, match="no file or folder nowhere"):
        plan_tasks([Path("nowhere")], tmp_path, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image or video in .*empty \(looked for \.jpg,"):
        plan_tasks([tmp_path / "empty"], tmp_path, None)
    with pytest.raises(ValueError, match=r"a\.png would be overwritten; name another folder"):
        plan_tasks([photos], photos, None)
    (photos / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png would both become .*a\.webp"):
        plan_tasks([photos], tmp_path / "out", "webp")


def test_so_many_jobs_are_under_way_and_no_more(photos, tmp_path):
    tasks = plan_tasks([photos], tmp_path / "out", None) * 5
    active, most, told = 0, 0, []

    async def work(task):
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0)
        active -= 1
        if task.format == "jpeg":
            raise RuntimeError("no")

    def done(task, error):
        told.append((task.format, str(error or "")))

    assert asyncio.run(run_tasks(tasks, work, jobs=4, done=done)) == 5
    assert most == 4
    assert sorted(told) == [("jpeg", "no")] * 5 + [("png", "")] * 5 + [("webp", "")] * 5


def test_a_mistake_of_ours_is_not_taken_for_a_bad_file(photos, tmp_path):
    async def work(task):
        raise KeyError("a mistake")

    tasks = plan_tasks([photos], tmp_path / "out", None)
    with pytest.raises(ExceptionGroup) as group:
        asyncio.run(run_tasks(tasks, work, jobs=2, done=lambda *_: None))
    assert group.group_contains(KeyError)


def test_nobody_finds_half_a_file(tmp_path):
    target = tmp_path / "new" / "a.png"
    write_whole(target, b"whole")
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]
    with pytest.raises(TypeError):
        write_whole(target, "text")
    assert target.read_bytes() == b"whole"
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


@pytest.fixture
def engine(manifest):
    """Make an engine of a function on images; it was made for 32 x 32."""

    def make(function=lambda images: -images, max_pixels=10_000):
        return LocalEngine(StubSession(function), manifest.model, 32, max_pixels, 10**6)

    return make


@pytest.mark.parametrize(("height", "width"), [(32, 32), (1, 1), (33, 30), (90, 7), (99, 97)])
def test_an_engine_here_translates_any_size(engine, height, width):
    pixels = noise(height, width)
    answer = engine().translate(saved(Image.fromarray(pixels), "PNG"), Output(), "native")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer))), 255 - pixels)


def test_a_frame_is_translated_at_the_size_that_is_wanted(engine):
    assert engine().translate_frame(noise(90, 60), "native").shape == (90, 60, 3)
    assert engine().translate_frame(noise(90, 60), "model").shape == (32, 21, 3)
    with pytest.raises(ImageTooLargeError, match="the limit is 10000; size=max"):
        engine().translate_frame(noise(101, 100), "native")


def test_a_sliver_that_padding_makes_too_large(engine):
    with pytest.raises(ImageTooLargeError, match="1 x 2000, 32000 pixels with the model's padding"):
        engine().translate_pixels(noise(2000, 1))


@pytest.mark.parametrize("function", [lambda images: images * np.nan, lambda images: images[:, :1]])
def test_an_engine_that_makes_no_image(engine, function):
    with pytest.raises(TranslationError, match="the engine made no image of one of 8 x 9 pixels"):
        engine(function).translate_pixels(noise(9, 8))


def test_without_pyav_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    said = r"videos need PyAV, which is not installed: pip install 'pocketgan\[video\]'"
    with pytest.raises(VideoError, match=said):
        translate_video(
            tmp_path / "a.mp4", tmp_path / "b.mp4", lambda pixels: pixels, tell=lambda *_: None
        )


@pytest.fixture
def film(tmp_path):
    """A film of eleven frames that get brighter, 33 x 48, with sound, and PyAV to look at it."""
    av = pytest.importorskip("av", reason="needs PyAV: pip install 'pocketgan[video]'")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as writer:
        video = writer.add_stream("mpeg4", rate=Fraction(12))
        video.width, video.height, video.pix_fmt = 48, 34, "yuv420p"
        sound = writer.add_stream("aac", rate=44_100)
        for level in range(20, 240, 20):
            frame = av.VideoFrame.from_ndarray(np.full((34, 48, 3), level, np.uint8))
            writer.mux(video.encode(frame))
        quiet = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        quiet.sample_rate = 44_100
        writer.mux(sound.encode(quiet))
        writer.mux(video.encode(None))
        writer.mux(sound.encode(None))
    return av, path


def test_a_film_keeps_its_frames_its_times_and_its_sound(film, tmp_path):
    av, path = film
    told = []
    target = tmp_path / "out" / "film.mp4"

    made = translate_video(
        path, target, lambda pixels: 255 - pixels, tell=lambda *count: told.append(count)
    )

    assert (made.frames, made.audio) == (11, "copied")
    assert [count for count, _ in told] == list(range(1, 12))
    with av.open(str(target)) as reader, av.open(str(path)) as source:
        video = reader.streams.video[0]
        assert (video.width, video.height) == (48, 34)
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in reader.decode(video)]
        times = [frame.time for frame in source.decode(source.streams.video[0])]
        assert reader.streams.audio[0].codec_context.name.startswith("aac")
    assert [time for time, _ in frames] == pytest.approx(times, abs=0.002)
    levels = [pixels.mean() for _, pixels in frames]
    assert levels == pytest.approx([255 - level for level in range(20, 240, 20)], abs=4)
    assert [path.name for path in target.parent.iterdir()] == ["film.mp4"]


def test_frames_of_odd_sides_are_evened(film, tmp_path):
    av, path = film
    target = tmp_path / "odd.mp4"
    translate_video(path, target, lambda pixels: pixels[:33, :47], tell=lambda *_: None)
    with av.open(str(target)) as reader:
        assert (reader.streams.video[0].width, reader.streams.video[0].height) == (48, 34)


def test_what_is_no_film(film, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no film")
    target = tmp_path / "out" / "broken.mp4"
    with pytest.raises(VideoError, match=r"broken\.mp4 cannot be translated"):
        translate_video(path, target, lambda pixels: pixels, tell=lambda *_: None)
    assert not list(target.parent.iterdir())
