"""The page in a real browser: with a mouse, a keyboard, a finger and a camera."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from PIL import Image

from deploy.imaging import ImageTooLargeError

pytestmark = [pytest.mark.slow, pytest.mark.browser]

KEY = "a-key-of-the-tests-1234"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

CONTRASTS = Path(__file__).with_name("contrast.js").read_text()


def shown(page, selector="#after"):
    """The colour in the middle of a canvas, read off a copy: it is the page's canvas, not ours.

    Chromium complains on the console of one that is read again and again without saying so.
    """
    return page.evaluate(
        """(selector) => {
          const canvas = document.querySelector(selector);
          const { width, height } = canvas;
          const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
          copy.drawImage(canvas, width >> 1, height >> 1, 1, 1, 0, 0, 1, 1);
          return [...copy.getImageData(0, 0, 1, 1).data];
        }""",
        selector,
    )


def placed(page):
    """Where the upper left corner of the picture is, in pixels of the stage."""
    return page.evaluate(
        """() => {
          const { e, f } = new DOMMatrix(document.getElementById("after").style.transform);
          return [e, f];
        }"""
    )


def choose(page, file):
    page.set_input_files("#file", file)
    page.locator("#split").wait_for()


def test_a_chosen_image_is_translated_and_its_times_are_shown(visit, scene, picture):
    page = visit()
    page.locator("#facts dd").first.wait_for()
    assert page.inner_text("#headline") == "negative, FP32 on bench"
    assert page.locator("#facts").inner_text().startswith("Name\nnegative\nPrecision\nFP32")
    choose(page, picture())
    assert shown(page, "#before") == [40, 40, 40, 255]
    assert shown(page) == [215, 215, 215, 255]
    assert scene.asked == [("native", "png", (48, 96, 3))]
    assert page.inner_text("#total") == "10"
    assert page.inner_text("#engine") == "4.0 ms"
    page.get_by_text("sea.png: 96 \u00d7 48 pixels").wait_for()
    assert page.locator("#drop").is_hidden()


def test_size_and_format_are_asked_for_again(visit, scene, picture):
    page = visit()
    choose(page, picture())
    page.select_option("#size", "model")
    page.get_by_text("sea.png: 96").wait_for()
    page.select_option("#format", "webp")
    page.get_by_text("sea.png: 96").wait_for()
    assert [asked[:2] for asked in scene.asked] == [
        ("native", "png"),
        ("model", "png"),
        ("model", "webp"),
    ]


def test_the_answer_can_be_downloaded(visit, picture):
    page = visit()
    choose(page, picture())
    for format, name in (("jpeg", "sea-translated.jpg"), ("png", "sea-translated.png")):
        page.select_option("#format", format)
        with page.expect_download() as waiting:
            page.click("#download")
        assert waiting.value.suggested_filename == name
        image = Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes()))
        assert (image.format.lower(), image.size) == (format, (96, 48))


def test_an_image_can_be_dropped_and_pasted(visit, scene):
    page = visit()
    for kind, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([kind, holder]) => {
              const canvas = new OffscreenCanvas(20, 10);
              canvas.getContext("2d").fillRect(0, 0, 20, 10);
              const blob = await canvas.convertToBlob();
              const data = new DataTransfer();
              data.items.add(new File([blob], `${kind}.png`, { type: "image/png" }));
              const event = kind === "drop" ? DragEvent : ClipboardEvent;
              dispatchEvent(new event(kind, { [holder]: data, cancelable: true }));
            }""",
            [kind, holder],
        )
        page.get_by_text(f"{kind}.png: 20 \u00d7 10 pixels").wait_for()
    assert len(scene.asked) == 2


def test_the_line_moves_by_keyboard(visit, picture):
    page = visit()
    choose(page, picture())
    line = page.get_by_role("slider", name="Line between before and after")
    line.focus()
    for key, now in (
        ("ArrowRight", 52),
        ("ArrowLeft", 50),
        ("ArrowUp", 52),
        ("PageDown", 42),
        ("Home", 0),
        ("ArrowLeft", 0),
        ("End", 100),
    ):
        page.keyboard.press(key)
        assert line.get_attribute("aria-valuenow") == str(now), key
    assert line.get_attribute("aria-valuetext") == "100 % before, 0 % after"


def test_the_line_follows_the_pointer(visit, picture):
    page = visit()
    choose(page, picture())
    box = page.locator("#stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle, steps=3)
    page.mouse.up()
    page.mouse.move(box["x"], middle)  # the button is up: it stays
    assert page.locator("#split").get_attribute("aria-valuenow") == "25"
    assert page.evaluate("document.activeElement.id") == "split"


def test_zoom_by_wheel_key_and_button_and_pan(visit, picture):
    page = visit()
    choose(page, picture())
    page.keyboard.press("+")
    assert page.inner_text("#fit") == "125 %"
    page.get_by_role("button", name="Zoom out").click()
    assert page.inner_text("#fit") == "100 %"
    assert page.get_by_role("button", name="Zoom out").is_disabled()
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.wheel(0, -2000)
    page.locator("#fit", has_text="1600 %").wait_for()
    assert placed(page) == pytest.approx([-150, -150], abs=16)  # what is under the pointer stays
    x, y = placed(page)
    page.locator("#split").focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert placed(page) == pytest.approx([x - 40, y - 40])
    line = page.locator("#split").get_attribute("aria-valuenow")
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.up()
    assert placed(page) == pytest.approx([x - 50, y - 60])
    assert page.locator("#split").get_attribute("aria-valuenow") == line
    page.keyboard.press("0")
    assert page.inner_text("#fit") == "100 %"


def test_what_the_server_refuses_is_said_in_its_words(visit, scene, picture):
    scene.error = ImageTooLargeError("image is 96 x 48 = 4608 pixels; the limit is 4000")
    page = visit()
    page.set_input_files("#file", picture())
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == "Image is 96 x 48 = 4608 pixels; the limit is 4000."
    assert page.locator("#busy").is_hidden()
    scene.error = None
    choose(page, picture())
    assert alert.is_hidden()


def test_what_is_no_image_is_said_before_it_is_sent(visit, scene, tmp_path):
    page = visit()
    (tmp_path / "notes.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "notes.png")
    page.get_by_role("alert").filter(
        has_text="notes.png is no image that this browser opens"
    ).wait_for()
    assert scene.asked == []


def test_a_server_that_is_gone_is_said(visit, picture):
    page = visit()
    page.route("**/v1/translate*", lambda route: route.abort())
    page.set_input_files("#file", picture())
    page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()


def test_a_second_image_takes_the_place_of_one_that_is_underway(visit, scene, picture):
    scene.hold = threading.Event()
    page = visit()
    page.set_input_files("#file", picture(name="first.png"))
    page.get_by_text("Translating first.png").wait_for()
    page.set_input_files("#file", picture(name="second.png", level=90))
    page.get_by_text("Translating second.png").wait_for()
    scene.hold.set()
    page.get_by_text("second.png: 96").wait_for()
    assert shown(page) == [165, 165, 165, 255]
    assert scene.abandoned == 1


def test_the_budget_is_judged_in_words(visit, scene):
    page = visit()
    for p50_ms, verdict, words in (
        (None, "none", "Not judged yet: 0 of 7 images of 32 \u00d7 32."),
        (4.0, "within", "Within budget, as far as 9 images tell."),
        (5.5, "over", "Over budget at p50."),
    ):
        scene.engine_p50_ms = p50_ms
        page.reload()
        page.locator("#budget").wait_for()
        assert page.inner_text("#verdict") == words
        assert page.locator("#verdict").get_attribute("data-verdict") == verdict


def test_the_camera_is_translated_live_until_it_is_stopped(visit, scene):
    page = visit(permissions=["camera"])
    page.locator("#facts dd").first.wait_for()
    page.select_option("#size", "model")
    button = page.locator("#camera")
    button.click()
    page.locator("#total-unit", has_text="frames per second").wait_for()
    page.get_by_text("from camera to screen").wait_for()
    assert button.inner_text() == "Stop camera"
    assert page.locator("#size").is_disabled()
    page.wait_for_timeout(500)
    assert int(page.inner_text("#total")) >= 2
    for _ in range(50):  # the picture moves, and the two are looked at one after the other
        after, before = shown(page, "#after")[0], shown(page, "#before")[0]
        if after == pytest.approx(255 - before, abs=12):
            break
        page.wait_for_timeout(50)
    else:
        pytest.fail(f"never the negative: {after} of {before}")
    button.click()
    page.get_by_text("The camera is off.").wait_for()
    assert set(scene.asked) == {("model", "jpeg", (32, 32, 3))}
    count = len(scene.asked)
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "camera-translated.jpg"
    assert len(scene.asked) <= count + 1


def test_a_stream_that_the_server_ends_says_why(visit, scene):
    scene.error = ValueError("the generator is tired")
    page = visit(permissions=["camera"])
    page.click("#camera")
    page.get_by_role("alert").filter(has_text="The generator is tired.").wait_for()
    assert page.inner_text("#camera") == "Start camera"
    assert page.locator("#drop").is_visible()


def test_a_server_with_keys_asks_for_one(visit, scene, picture):
    page = visit(keys=f"me:{KEY}", permissions=["camera"])
    page.get_by_role("alert").filter(has_text="This server wants an API key").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("wrong-key-of-someone")
    page.keyboard.press("Enter")
    page.get_by_role("alert").filter(has_text="This API key is not one of this server's").wait_for()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.locator("#facts dd").first.wait_for()
    assert page.get_by_role("alert").is_hidden()
    choose(page, picture())
    page.click("#camera")
    page.locator("#total-unit", has_text="frames per second").wait_for()


def test_a_phone_shows_all_of_it_at_its_width(visit, picture):
    page = visit(**PHONE)
    assert page.locator("#drop").get_by_text("Choose a photo").is_visible()
    choose(page, picture())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for selector in (".button", "button", "select"):
        for element in page.locator(f"{selector}:visible").all():
            assert element.bounding_box()["height"] >= 44
    box = page.locator("#stage").bounding_box()
    assert box["width"] == 390
    page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + 20)
    assert page.locator("#split").get_attribute("aria-valuenow") == "75"


def test_two_fingers_zoom(visit, picture):
    page = visit(**PHONE)
    choose(page, picture())
    box = page.locator("#stage").bounding_box()
    session = page.context.new_cdp_session(page)
    y = box["y"] + box["height"] / 2
    for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 80), ("touchEnd", 0)):
        points = [{"x": 195 - apart, "y": y, "id": 0}, {"x": 195 + apart, "y": y, "id": 1}]
        session.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [] if kind == "touchEnd" else points},
        )
    page.locator("#fit", has_text="200 %").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(visit, scene, picture, scheme):
    scene.engine_p50_ms = 9.0
    page = visit(color_scheme=scheme)
    page.locator("#budget").wait_for()
    empty = page.evaluate(CONTRASTS)
    choose(page, picture())
    scene.error = ImageTooLargeError("image is too large")
    page.select_option("#size", "max")
    page.get_by_role("alert").wait_for()
    found = empty | page.evaluate(CONTRASTS)
    assert len(found) > 30
    assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}


def test_all_of_it_is_reached_by_tab_and_seen_there(visit, picture):
    page = visit()
    choose(page, picture())
    page.locator("h1").click()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id")
        if not name or name in reached:
            continue
        reached.append(name)
        outline = page.evaluate(
            """() => {
              const one = document.activeElement;
              const shown = one.id === "file" ? document.querySelector(".bar .button") : one;
              const pseudo = one.id === "split" ? "::after" : null;
              return getComputedStyle(shown, pseudo).outlineStyle;
            }"""
        )
        assert outline == "solid", name
    assert reached == ["split", "file", "camera", "fit", "larger", "download", "size", "format"]


def test_nothing_moves_where_that_is_not_wanted(visit, scene, picture):
    scene.hold = threading.Event()
    page = visit(reduced_motion="reduce")
    page.set_input_files("#file", picture())
    page.locator("#busy").wait_for()
    style = "getComputedStyle(document.getElementById('busy'), '::after').animationName"
    assert page.evaluate(style) == "none"
    scene.hold.set()
    page.locator("#split").wait_for()
