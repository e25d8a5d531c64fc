"""The worst parts of golden images: found where they are, and shown as they are."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from deploy.golden import GoldenPairs
from deploy.imaging import to_model
from deploy.report.tiles import TILE, TILES, amplification, amplified, worst_tiles
from tests.deploy.conftest import photos, run_onnx, student
from tests.deploy.report_bundle import make_bundle


def enlarging():
    """Twice as high and wide, by repetition."""
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    node = helper.make_node("Resize", ["image", "", "scales"], ["big"], "resize", mode="nearest")
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, h, w])
        for name, h, w in (("image", "h", "w"), ("big", "h2", "w2"))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [scales])
    opset = helper.make_opsetid("", 18)
    version = helper.find_min_ir_version_for([opset])
    return helper.make_model(graph, opset_imports=[opset], ir_version=version)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Larger images; the float student differs from the engine in one corner of each."""
    source = photos(6, seed=4, size=160)
    made = run_onnx(student(), to_model(source))
    for index, images in enumerate(made):
        images[:, 8:24, 120:150] -= 0.015 * (index + 1)
    golden = GoldenPairs(source, np.clip(made, -1, 1), None, source)
    return make_bundle(tmp_path_factory.mktemp("worst") / "bundle", golden=golden)


def test_the_worst_tiles_are_where_the_engine_is_furthest_from_float(damaged):
    worst = worst_tiles(damaged)
    assert worst.images == 6
    assert worst.runtime == ""
    assert len(worst.tiles) == TILES
    assert [tile.image for tile in worst.tiles] == [5, 4, 3, 2], "worst first"
    for tile in worst.tiles:
        assert tile.row <= 8
        assert 22 <= tile.column <= 32
        assert {p.shape for p in tile.pictures.values()} == {(TILE, TILE, 3)}
        assert list(tile.pictures) == ["input", "teacher", "student, float", "engine, int8"]
        found = tile.pictures["engine, int8"].astype(int) - tile.pictures["student, float"]
        assert np.array_equal(found, tile.difference)


def test_a_difference_is_made_visible_by_one_factor_for_all(damaged):
    tiles = worst_tiles(damaged).tiles
    factor = amplification(tiles)
    assert factor == 16, "the largest is 6 x 0.015 x 127.5 = 11.5 levels"
    seen = amplified(tiles[0], factor)
    assert seen.max() == min(255, int(np.abs(tiles[0].difference).max()) * factor)
    assert (seen == 0).any()


def test_inputs_of_super_resolution_are_shown_at_the_same_place(tmp_path):
    source = photos(1, size=96)
    made = run_onnx(enlarging(), to_model(source))
    made[:, :, 160:180, 100:120] -= 0.1
    golden = GoldenPairs(source, np.clip(made, -1, 1), None, None)
    bundle = make_bundle(tmp_path / "b", engine=enlarging(), golden=golden, teacher=False)
    (tile,) = worst_tiles(bundle).tiles
    assert (tile.row, tile.pictures["input"].shape) == (56, (TILE, TILE, 3))
    assert np.array_equal(tile.pictures["input"], tile.pictures["engine, int8"])
