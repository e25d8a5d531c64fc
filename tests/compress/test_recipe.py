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


GCC = 'name = "gcc"\ncontent = 0.0\ngram = 0.0\ngates = {{width = 4, norm = "instance"}}'
FREE = "imitation = 10.0"


def changed(tmp_path, *changes):
    text = RECIPE
    for right, wrong in changes:
        assert right in text
        text = text.replace(right, wrong)
    path = tmp_path / "r.toml"
    path.write_text(text.format(folder=tmp_path))
    return load_recipe(str(path), CompressRecipe)


def without(text, start, end):
    """What lies between two tables, both exclusive."""
    return text[text.index(start) : text.index(end)]


DCD = without(RECIPE, "[method]", "[training]")
PRUNING = without(RECIPE, "[pruning]", "[method]")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [(DCD, f"[method]\n{GCC}\nadversarial = 1.0\ndcd = 1.0\n"), ("crop = 96", "crop = 64")],
            "crop = 64 is too small, take 96",
        ),
        (
            [('kind = "restoration"', 'kind = "photos"'), (without(RECIPE, "[data.", "[teac"), "")],
            r"photos data hold no truth for method\.reconstruction = 10: leave it out",
        ),
        (
            [(DCD, '[method]\nname = "data_free"\n')],
            "the student follows nothing: give imitation a weight",
        ),
        (
            [(DCD, f'[method]\nname = "data_free"\n{FREE}\ndiscrepancy = 0.0\n')],
            "nothing tells the synthesizer what to invent",
        ),
        (
            [(DCD, f'[method]\nname = "data_free"\n{FREE}\n')],
            "calibration_images = 4: ranges of so few images",
        ),
        (
            [
                (DCD, f'[method]\nname = "data_free"\n{FREE}\nstatistics = 1.0\n'),
                ("calibration_images = 4", "calibration_images = 8"),
                ("crop = 96", "crop = 96\ncompile = true"),
            ],
            "compile = true hides the BatchNorms",
        ),
        (
            [
                (DCD, f'[method]\nname = "data_free"\n{FREE}\n'),
                ("calibration_images = 4", "calibration_images = 8"),
                (PRUNING, "[agents]\nmacs_reduction = 2.0\nsteps = 2\n"),
            ],
            r"\[agents\] learns from images, and data_free has none",
        ),
        (
            [
                (
                    PRUNING,
                    '[slimming]\nmacs_reduction = 2.0\nsteps = 2\nby = "scales"\n'
                    'penalty = 0.01\nweights = "initialize"\n[student]\nfamily = "resnet"\n'
                    'width = 8\nblocks = 2\nnorm = "batch"\ninitialization = "identity"\n',
                ),
            ],
            "draws fresh weights, and student.initialization = 'identity' wants others",
        ),
    ],
)
def test_tables_that_contradict_each_other_are_refused_before_anything_runs(
    tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        changed(tmp_path, *changes)


def test_a_cycle_has_no_weights_of_pix2pix(tmp_path):
    text = (RECIPES / "horse2zebra-dcd.toml").read_text()
    start = text.index("[student]") if "[student]" in text else text.index("[pruning]")
    table = (
        '[slimming]\nmacs_reduction = 2.0\nsteps = 2\nby = "weights"\npenalty = 0.001\n'
        'weights = "initialize"\nreconstruction = 10.0\n\n'
    )
    path = tmp_path / "r.toml"
    path.write_text(text[:start] + table + text[start:])
    with pytest.raises(ValueError, match=r"leave reconstruction out of \[slimming\]"):
        load_recipe(str(path), CompressRecipe)
