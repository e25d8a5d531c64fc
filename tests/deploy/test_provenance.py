from __future__ import annotations

import os
import subprocess

import pytest

from deploy import provenance
from deploy.provenance import git_commit, inputs, lineage

HASH = "[0-9a-f]{40}"


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit, and its git."""
    environment = os.environ | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }

    def git(*words):
        ran = subprocess.run(
            ["git", "-C", str(tmp_path), *words],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return ran.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("1\n")
    git("add", "code.py")
    git("commit", "--quiet", "--message", "one")
    return tmp_path, git("rev-parse", "HEAD")


def test_the_commit_of_a_checkout(checkout):
    root, head = checkout
    assert git_commit(root) == head
    (root / "build.log").write_text("")  # nothing git follows
    assert git_commit(root) == head


def test_changes_nobody_committed_are_marked(checkout):
    root, head = checkout
    (root / "code.py").write_text("2\n")
    assert git_commit(root) == f"{head}+dirty"


def test_a_package_inside_somebody_elses_checkout_has_no_commit(checkout):
    root, _ = checkout
    inside = root / "site-packages"
    inside.mkdir()
    assert git_commit(inside) is None


@pytest.mark.parametrize("failure", [FileNotFoundError, subprocess.TimeoutExpired("git", 10)])
def test_without_git_there_is_no_commit(failure, checkout, monkeypatch):
    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(subprocess, "run", fail)
    assert git_commit(checkout[0]) is None


def test_a_repository_without_a_commit(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert git_commit(tmp_path) is None


@pytest.mark.parametrize("commit", ["0" * 40, None])
def test_the_lineage_of_an_engine(commit, sealed_export, monkeypatch):
    monkeypatch.setattr(provenance, "git_commit", lambda: commit)
    made = lineage(sealed_export, quantization_sha256="a", engine_sha256="b")
    assert list(made) == ["teacher", "recipe", "export", "quantization", "engine"] + (
        [] if commit is None else ["git"]
    )
    assert (made["quantization"], made["engine"]) == ("sha256:a", "sha256:b")
    assert inputs(sealed_export).items() <= made.items()


def test_a_float_engine_has_no_quantization(sealed_export):
    made = lineage(sealed_export, quantization_sha256=None, engine_sha256="b")
    assert "quantization" not in made
