"""The documentation says what there is, and nothing that is not there."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from deploy.main import COMMANDS
from devices.profile import DeviceProfile, load_profile
from serving.settings import PREFIX, ServingSettings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
PROSE = "\n".join(path.read_text() for path in [README, *sorted((ROOT / "docs").glob("*.md"))])

RECIPES = sorted(path.stem for path in (ROOT / "compress" / "recipes").glob("*.toml"))
PROFILES = sorted(path.stem for path in (ROOT / "devices" / "profiles").glob("*.toml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.M))


def methods() -> list[str]:
    """The keys of the literal dict METHODS, read without importing torch."""
    tree = ast.parse((ROOT / "compress" / "methods" / "__init__.py").read_text())
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == "METHODS" for t in targets):
            return [ast.literal_eval(key) for key in node.value.keys]
    return []


def recipe_keys() -> list[str]:
    """The fields of every model of a recipe, read without importing torch."""
    files = [ROOT / "compress" / "recipe.py", *(ROOT / "compress" / "schema").glob("*.py")]
    return sorted(
        {
            field.target.id
            for path in files
            for model in ast.parse(path.read_text()).body
            if isinstance(model, ast.ClassDef)
            for field in model.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        - {"kind", "family"}  # documented by their values: kind = "paired"
    )


def code_blocks(text: str) -> list[str]:
    """Fenced blocks of shell, one string each."""
    return re.findall(r"^```(?:sh|bash|console|shell)\n(.*?)^```", text, flags=re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The words of every command in the shell blocks; continuation lines joined, prompts cut."""
    found = []
    for block in code_blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line and not line.startswith("#"):
                found += [
                    shlex.split(part, comments=True) for part in re.split(r" && | \| |; ", line)
                ]
    return [words for words in found if words]


SHELL = [(path, words) for path in DOCS for words in commands(path.read_text())]


def mentions(name: str) -> bool:
    """Is the name somewhere in the prose, as a word in code type?"""
    return re.search(rf"`[^`\n]*(?<![\w-]){re.escape(name)}(?![\w-])[^`\n]*`", PROSE) is not None


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_is_documented_with_its_options(verb):
    pages = (ROOT / "docs" / "commands.md").read_text().split("\n## ")
    (page,) = (page for page in pages if page.startswith(f"pocketgan {verb}\n"))
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[verb][0]).add_arguments(verb, parser)
    said = parser.format_help()
    declared = set(re.findall(r"--[a-z-]+", said))
    assert declared == set(re.findall(r"(?<=`)--[a-z-]+", page))
    assert "Exit status" in page


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_documented_as_it_is(name):
    profile = load_profile(name)
    budget = profile.budget
    table = (ROOT / "docs" / "devices.md").read_text()
    (row,) = re.findall(rf"^\| `{name}` .*$", table, flags=re.M)
    assert row.endswith(
        f"| {', '.join(profile.precisions)} "
        f"| {budget.p50_ms:g} / {budget.p90_ms:g} / {budget.p99_ms:g} |"
    )


@pytest.mark.parametrize("key", DeviceProfile.model_fields)
def test_every_key_of_a_profile_is_documented(key):
    assert f"\n| `{key}` |" in (ROOT / "docs" / "devices.md").read_text()


@pytest.mark.parametrize("field", ServingSettings.model_fields)
def test_every_setting_of_the_server_is_documented_with_its_default(field):
    default = str(getattr(ServingSettings(), field)).removesuffix(".0")
    line = f"\n| `{PREFIX}{field.upper()}` | `{default}` |"
    assert line in (ROOT / "docs" / "serving.md").read_text()


@pytest.mark.parametrize("key", recipe_keys())
def test_every_key_of_a_recipe_is_documented(key):
    assert f"`{key}`" in (ROOT / "docs" / "recipes.md").read_text()


def test_the_profile_in_the_documentation_is_one(tmp_path):
    text = (ROOT / "docs" / "devices.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```", text, flags=re.M | re.S)
    (tmp_path / "kiosk.toml").write_text(example)
    assert load_profile(tmp_path / "kiosk.toml").name == "kiosk"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_documented(name):
    assert f"\n| `{name}` |" in (ROOT / "docs" / "recipes.md").read_text()


@pytest.mark.parametrize("name", methods())
def test_every_method_is_documented(name):
    assert mentions(name)


def test_there_is_something_to_document():
    assert RECIPES
    assert PROFILES
    assert methods()
    assert recipe_keys()
    assert SHELL


def test_commands_in_the_documentation_exist():
    for path, words in SHELL:
        where = f"{path.relative_to(ROOT)}: {' '.join(words)}"
        if words[0] == "pocketgan":
            assert words[1] in {*COMMANDS, "--help"}, where
        if words[0] == "make":
            goals = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(goals) <= TARGETS, where


def test_recipes_and_devices_in_the_documentation_exist():
    for path, words in SHELL:
        where = f"{path.relative_to(ROOT)}: {' '.join(words)}"
        for before, word in zip(["", *words], words, strict=False):
            if before == "--device" and not word.endswith(".toml"):
                assert word in PROFILES, where
            if word.startswith("DEVICE=") and not word.endswith(".toml"):
                assert word.removeprefix("DEVICE=") in PROFILES, where
            if word.startswith("RECIPE=") and not word.endswith(".toml"):
                assert word.removeprefix("RECIPE=") in RECIPES, where


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    """Relative links only: a file that is there and, after #, a heading that is in it."""
    text = without_code(path.read_text())
    for link in re.findall(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"", text):
        name, _, anchor = next(filter(None, link)).partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name} -> {name}"
        if anchor:
            assert anchor in anchors(target), f"{path.name} -> {name}#{anchor}"


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, made as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(path.read_text()), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_names_every_page_of_the_documentation():
    text = README.read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text, f"README.md does not mention docs/{page.name}"


def test_the_changelog_names_things_that_exist():
    """Full symbol names: every ``module.name`` in the changelog is defined where it says."""
    text = (ROOT / "CHANGELOG.md").read_text()
    names = re.findall(r"`((?:compress|deploy|devices|serving)(?:\.\w+)+)`", text)
    assert names
    for name in names:
        assert symbol_exists(name), f"CHANGELOG.md: {name}"


def symbol_exists(name: str) -> bool:
    """Is there such a module, or such a name in its text? Nothing is imported."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:cut])
        source = (
            path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        )
        if source.is_file():
            defined = {
                node.name
                for node in ast.walk(ast.parse(source.read_text()))
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            } | {
                node.id
                for node in ast.walk(ast.parse(source.read_text()))
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            return set(parts[cut:]) <= defined
    return False
