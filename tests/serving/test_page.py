import re
from importlib.resources import files

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving.page import FILES, POLICY, add_page, read_static


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    add_page(app)
    return TestClient(app)


def test_the_page_is_html_with_a_strict_policy(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert answer.headers["permissions-policy"].startswith("camera=(self)")
    assert client.head("/").headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_its_type_and_is_not_sent_twice(client, name):
    answer = client.get(f"/static/{name}")
    assert answer.headers["content-type"] == FILES[name]
    tag = answer.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = client.get(f"/static/{name}", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert client.get(f"/static/{name}", headers={"If-None-Match": '"old"'}).status_code == 200
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["page.py", "..%2Fpage.py", "%2e%2e/page.py", "", "app.js%00"])
def test_there_is_nothing_else(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_every_file_of_the_package_is_served():
    assert {file.name for file in (files("serving") / "static").iterdir()} == set(FILES)


def test_the_files_name_no_other_host_and_hold_no_inline_code():
    for name, content in read_static().items():
        text = content.decode("ascii")
        outside = set(re.findall(r"https?://[\w.-]+", text)) - {"http://www.w3.org"}
        assert outside == set(), name
        if name.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", text)
            # a page below a path of a proxy finds its files too
            assert not re.search(r'(src|href)="/', text)


def test_what_the_page_looks_for_is_there():
    contents = {name: content.decode() for name, content in read_static().items()}
    ids = set(re.findall(r'\bid="([\w-]+)"', contents["index.html"]))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', contents["app.js"]))
    (names,) = re.findall(r"= \[([^\]]*)\]\.map\(\(id\)", contents["stage.js"])
    asked |= set(re.findall(r'"([\w-]+)"', names))
    assert {"file", "camera", "split", "after"} < asked
    assert asked <= ids
    labelled = re.findall(r'\b(?:for|aria-labelledby)="([\w-]+)"', contents["index.html"])
    assert set(labelled) <= ids
    imported = {name for text in contents.values() for name in re.findall(r'"\./([\w.]+)"', text)}
    assert imported < set(FILES)
