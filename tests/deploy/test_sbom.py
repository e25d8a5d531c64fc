from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from deploy.manifests import Manifest
from deploy.sbom import RUNTIMES, sbom
from devices.sealed import digest

SAMPLE = Path(__file__).parents[1] / "serving" / "manifest.json"


@pytest.fixture
def face():
    return Manifest.model_validate_json(SAMPLE.read_text())


@pytest.fixture
def engine(tmp_path):
    (tmp_path / "engine.onnx").write_bytes(b"engine")
    return tmp_path / "engine.onnx"


def components(text):
    return {one["bom-ref"]: one for one in json.loads(text)["components"]}


def test_it_says_what_it_is(face, engine):
    bill = json.loads(sbom(face, [engine]))
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    # the pattern of the schema
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    assert bill["metadata"]["component"]["name"] == face.model.name


def test_the_engine_is_there_with_its_digest(face, engine):
    (hashed,) = components(sbom(face, [engine]))["engine.onnx"]["hashes"]
    assert hashed == {"alg": "SHA-256", "content": digest(engine)}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_runs_the_engine_is_required_and_what_made_it_is_not(backend, face, engine):
    text = sbom(face.model_copy(update={"backend": backend}), [engine])
    scopes = {one["name"]: one["scope"] for one in components(text).values()}
    assert scopes["nncf"] == scopes["onnx"] == "excluded"
    for name, packages in RUNTIMES.items():
        for package in packages:
            assert scopes.get(package, name) in (
                name,
                "required" if name == backend else "excluded",
            )
    assert scopes[backend] == scopes["numpy"] == scopes["engine.onnx"] == "required"
    (needs,) = (one for one in json.loads(text)["dependencies"])
    assert f"pkg:pypi/{backend}@{metadata.version(backend)}" in needs["dependsOn"]
    assert not any("nncf" in ref for ref in needs["dependsOn"])


def test_every_reference_is_that_of_one_component(face, engine):
    bill = json.loads(sbom(face, [engine]))
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(set(references)) == len(references)
    assert set(bill["dependencies"][0]["dependsOn"]) <= set(references)


def test_versions_and_licences_are_those_of_the_packages(face, engine):
    numpy = components(sbom(face, [engine]))[f"pkg:pypi/numpy@{metadata.version('numpy')}"]
    assert numpy["version"] == metadata.version("numpy")
    assert "BSD" in json.dumps(numpy["licenses"])


def test_a_licence_is_found_in_each_of_the_three_places(face, engine, monkeypatch, tmp_path):
    said = {
        "numpy": "License-Expression: BSD-3-Clause\nLicense: other",
        "onnx": "License: Apache-2.0",
        "nncf": f"License: {'x' * 500}\nClassifier: License :: OSI Approved :: MIT License",
        "pydantic": "Summary: says nothing",
    }

    def of(name):
        if name not in said:
            raise metadata.PackageNotFoundError(name)
        (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nVersion: 1\n{said[name]}\n")
        return metadata.PathDistribution(tmp_path).metadata

    monkeypatch.setattr(metadata, "metadata", of)
    found = {one["name"]: one.get("licenses") for one in components(sbom(face, [engine])).values()}
    assert {name: found[name] for name in said} == {
        "numpy": [{"expression": "BSD-3-Clause"}],
        "onnx": [{"license": {"name": "Apache-2.0"}}],
        "nncf": [{"license": {"name": "MIT License"}}],
        "pydantic": None,
    }
    assert "openvino" not in found  # not installed: nothing is said of it


def test_the_same_bundle_has_the_same_bill_and_another_another(face, engine):
    first = sbom(face, [engine])
    assert sbom(face, [engine]) == first
    engine.write_bytes(b"another")
    assert json.loads(sbom(face, [engine]))["serialNumber"] != json.loads(first)["serialNumber"]
