"""The report: one file that shows what is known of bundles, and nothing that is not."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from deploy.golden import GoldenPairs
from deploy.main import main
from deploy.manifests import EVIDENCE
from deploy.report.figures import blamed
from deploy.report.write import read_evidence, write_report
from devices.sealed import BundleError
from tests.deploy.report_bundle import LAYERS, make_bundle

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """What a browser sees: tags that must balance, text, and every address it might ask."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.addresses = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("report") / "bundle")


def report(tmp_path, *bundles, **options):
    out = tmp_path / "report.html"
    assert write_report(bundles, out, **options) is not None
    return Page(out.read_text(encoding="utf-8"))


def test_a_report_shows_all_that_is_known(bundle, tmp_path):
    page = report(tmp_path, bundle)
    said = page.said()
    for part in (
        "tiny on here",
        "onnxruntime int8: 2.00 ms at 32 x 32 pixels, 40.0 x faster than the teacher in PyTorch "
        "eager and 3.0 x faster than the student in ONNX Runtime fp32; 41.0 dB, LPIPS 0.0040 to "
        "the float student.",
        "1.00 G, 10.0 x fewer",
        "fastest of 2 that may ship",
        "at least 35 dB to the float student, LPIPS of at most 0.005, at most 0.5 dB lost",
        "Worst images",
        "3 layers, 1 of which ended in float",
        "To blame for what is left: conv1 (91%), conv2 (9%).",
        "Measured latency against quality",
        "LPIPS: lower is closer to float",
        "One interleaved run of 10 rounds",
        "load 90 ms, first image 9.0 ms",
        "a <fast> CPU",
        "Calibration: 8 images are few",
        "1" * 64,
        bundle.digest,
        "onnxruntime 1.31.1",
    ):
        assert part in said, part
    plots = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(plots) == 2 + 3, (
        "sensitivity, Pareto, and a histogram for each engine and the teacher"
    )


def test_a_report_asks_nobody_for_anything(bundle, tmp_path):
    page = report(tmp_path, bundle)
    assert page.addresses
    assert all(address.startswith(("data:image/webp;base64,", "#")) for address in page.addresses)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert str(tmp_path) not in text
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none';")


def test_a_report_can_be_read_by_those_who_do_not_see_it(bundle, tmp_path):
    page = report(tmp_path, bundle)
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("img")
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("h1")) == 1
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    pictures = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in pictures)


def test_names_are_text_whatever_is_in_them(tmp_path):
    hostile = '</title><script>alert("1")</script>&amp;'
    page = report(tmp_path, make_bundle(tmp_path / "b", name=hostile))
    assert not page.all("script")
    assert hostile in page.said()


def test_what_a_bundle_does_not_hold_is_left_out(tmp_path):
    bare = make_bundle(
        tmp_path / "b", evidence=False, lpips=None, teacher=False, measured=False, truth=False
    )
    page = report(tmp_path, bare)
    said = page.said()
    for part in ("Layers", "Latency", "Measured", "LPIPS 0", "faster", "None", "teacher in", "nan"):
        assert part not in said, part
    assert "not measured: made on a machine that is not here; 41.0 dB to the float student" in said
    names = {image["alt"].partition(",")[0] for image in page.all("img")}
    assert names == {"input", "student", "engine", "difference x 64"}
    assert "ran through ONNX Runtime on the CPU of a machine that is not the device" in said
    assert not [svg for svg in page.all("svg") if svg.get("role") == "img"]


def test_private_leaves_out_images_only(bundle, tmp_path):
    page = report(tmp_path, bundle, private=True)
    assert not page.all("img")
    assert "Worst images" not in page.said()
    assert "Left out: images, as they are private." in page.said()
    assert [svg for svg in page.all("svg") if svg.get("role") == "img"]


def test_several_bundles_are_compared_first(bundle, tmp_path):
    twin = make_bundle(tmp_path / "twin")
    other = make_bundle(tmp_path / "other", name="other", lpips=None)
    page = report(tmp_path, bundle, twin, other)
    said = page.said()
    assert said.index("3 bundles beside each other") < said.index("Engines tried")
    assert said.count("Measured latency against quality") == 2, "the heading and the drawing's name"
    assert "PSNR, dB: higher is closer to float" in said, "not every engine has an LPIPS"
    assert f"tiny on here ({bundle.digest[:8]})" in said
    assert "other on here" in said
    links = [address for address in page.addresses if address.startswith("#")]
    assert links == ["#bundle1", "#bundle2", "#bundle3"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert ids == ["bundle1", "bundle2", "bundle3"]


def test_an_engine_that_cannot_run_here_loses_its_images_only(tmp_path):
    foreign = make_bundle(tmp_path / "b", engine_file="engine.plan", profile={"board": "Moon 7"})
    left_out = write_report([foreign], tmp_path / "r.html")
    reason = "images of tiny: engine.plan runs on here only, and this machine is not one"
    assert left_out == [reason]
    page = Page((tmp_path / "r.html").read_text())
    assert not page.all("img")
    assert f"Left out: {reason}." in page.said()


def test_evidence_of_another_kind_is_refused(tmp_path):
    broken = make_bundle(tmp_path / "b", evidence='{"rounds": 3}')
    with pytest.raises(BundleError, match=r"evidence\.json: missing key 'samples_ms'"):
        read_evidence(broken)


def test_where_a_report_may_be_written(bundle, tmp_path):
    with pytest.raises(ValueError, match=r"a report is an \.html file, got --out .*photo\.png"):
        write_report([bundle], tmp_path / "photo.png")
    with pytest.raises(ValueError, match="is a sealed bundle: write the report beside it"):
        write_report([bundle], bundle.path / "report.html")
    with pytest.raises(ValueError, match="at least one bundle, got none"):
        write_report([], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_verb_writes_beside_the_first_bundle(tmp_path, capsys):
    bundle = make_bundle(tmp_path / "here" / "bundle")
    assert main(["report", str(bundle.path)]) == 0
    assert (tmp_path / "here" / "report.html").is_file()
    assert "holds parts of golden images" in capsys.readouterr().out
    out = tmp_path / "else" / "page.html"
    assert main(["report", str(bundle.path), "--private", "--out", str(out)]) == 0
    assert "<img" not in out.read_text()
    assert "holds no images" in capsys.readouterr().out


def test_the_verb_refuses_a_damaged_bundle(tmp_path, capsys):
    bundle = make_bundle(tmp_path / "bundle")
    (bundle.path / EVIDENCE).write_text("{}")
    with pytest.raises(SystemExit) as exit:
        main(["report", str(bundle.path)])
    assert exit.value.code == 2
    assert "evidence.json does not match its digest" in capsys.readouterr().err


def test_blame_goes_to_layers_in_int8_by_their_share():
    shares = {one.layer: share for one, share in blamed(LAYERS)}
    assert shares == pytest.approx({"conv1": 10 / 11, "conv2": 1 / 11})
    assert blamed(LAYERS[:1]) == []


def test_pictures_are_what_they_were_to_the_last_bit(bundle, tmp_path):
    page = report(tmp_path, bundle)
    golden = GoldenPairs.read(bundle.golden)
    inputs = [image for image in page.all("img") if image["alt"].startswith("input")]
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))
        for image in inputs
    ]
    indices = [int(image["alt"].split("golden image ")[1].split(",")[0]) for image in inputs]
    assert sorted(indices) == [0, 1, 2]
    assert all(np.array_equal(s, golden.source[i]) for s, i in zip(shown, indices, strict=True))
