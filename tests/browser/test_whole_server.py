"""The page and `pocketgan serve`, as they are shipped: a process, an engine, a browser."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving.test_cli import engine_of, program, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.browser]

KEY = "a-key-of-the-tests-1234"


@pytest.fixture
def served(seal_bundle):
    """The address of the program with an engine that makes negatives."""
    folder = seal_bundle(engine_of("Neg"))

    def start(**variables):
        process = program(folder, "--port", "0", **variables)
        running.append(process)
        url = process.__enter__().stdout.readline().split(" at ")[1].split()[0]
        wait_until_ready(url)
        return url + "/"

    running = []
    yield start
    for process in running:
        process.__exit__(None, None, None)


def test_an_image_goes_through_page_server_and_engine_and_back(open_page, served, picture):
    page = open_page(served())
    page.locator("#facts dd").first.wait_for()
    assert page.inner_text("#headline").startswith("negative, FP32 on ")
    page.set_input_files("#file", picture(48, 96, level=40))
    page.locator("#split").wait_for()
    with page.expect_download() as waiting:
        page.click("#download")
    image = Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes()))
    assert image.size == (96, 48)
    np.testing.assert_array_equal(np.asarray(image)[0, 0], [215, 215, 215])
    assert float(page.inner_text("#engine").removesuffix(" ms")) > 0


def test_the_page_asks_for_a_key_where_the_server_wants_one(open_page, served, picture):
    page = open_page(served(POCKETGAN_API_KEYS=f"me:{KEY}"))
    page.get_by_role("alert").filter(has_text="This server wants an API key").wait_for()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.locator("#facts dd").first.wait_for()
    page.set_input_files("#file", picture())
    page.locator("#split").wait_for()


def test_a_refusal_is_told_in_the_servers_own_words(open_page, served, picture):
    page = open_page(served(POCKETGAN_MAX_DECODE_PIXELS="2000", POCKETGAN_MAX_PIXELS="2000"))
    page.locator("#facts dd").first.wait_for()
    page.set_input_files("#file", picture(48, 96))
    page.get_by_role("alert").filter(has_text="the limit").wait_for()


def test_the_list_of_routes_asks_nobody_else_and_tries_them_with_a_key(open_page, served):
    # `open_page` fails where a page asks any other host, or where a policy forbids what it loads
    page = open_page(served(POCKETGAN_API_KEYS=f"me:{KEY}") + "docs")
    page.get_by_role("button", name="Authorize").click()
    page.locator(".auth-container input").fill(KEY)
    page.get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close").click()
    page.locator("#operations-default-model_v1_model_get").get_by_role("button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table").get_by_text('"negative"').wait_for()
