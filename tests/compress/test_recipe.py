import pytest

from compress.recipe import RECIPES, CompressRecipe, TrainRecipe, load_recipe, recipe_names
from tests.compress.conftest import RECIPE


def test_every_shipped_recipe_loads_and_bears_its_file_name():
    names = recipe_names("train") + recipe_names("compress")
    assert sorted(names) == sorted(path.stem for path in RECIPES.glob("*.toml"))
    for name in recipe_names("train"):
        assert load_recipe(name, TrainRecipe)[0].name == name
    for name in recipe_names("compress"):
        assert load_recipe(name, CompressRecipe)[0].name == name


def test_an_unknown_recipe_lists_the_known():
    with pytest.raises(ValueError, match=r"no recipe 'restor'; there are: .*restore"):
        load_recipe("restor", CompressRecipe)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("batch_size = 1", "batch_sice = 1", r"unknown key '.*batch_sice'; did you mean 'batch_"),
        ("steps = 6", "", r"missing key 'training\.steps'"),
        ("steps = 6", 'steps = "6"', r"training\.steps = '6'"),
        ("steps = 6", "steps = 0", r"training\.steps = 0"),
        ("crop = 96", "crop = 64", "crop = 64 is too small, take 96 or more"),
        ('name = "dcd"', 'name = "dcx"', "dcx"),
        ("[method]", "[method", "Expected ']'"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, right, wrong, message):
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.format(folder=tmp_path).replace(right, wrong))
    with pytest.raises(ValueError, match=message) as error:
        load_recipe(str(path), CompressRecipe)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
