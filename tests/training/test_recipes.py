from pathlib import Path

import pytest

from ommatid.training.recipes import Recipe, list_recipes, load_recipe

CHANGE = {"epochs": None, "batch": None, "lr": None, "precision": None}


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_and_survives_writing(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_dict(recipe.to_dict(), "again") == recipe


def test_a_mistyped_name_is_answered_with_suggestions() -> None:
    with pytest.raises(ValueError, match=r"no recipe is called 'defualt' \(did you mean 'default'\?\)"):
        load_recipe("defualt")


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "epochs: 3\nbatch: 8\nlr: 1e-3\naugmentation:\n  crop: centre\n"))
    assert (recipe.name, recipe.epochs, recipe.lr, recipe.augmentation.crop) == ("mine", 3, 1e-3, "centre")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a recipe"),
        ("epochs: [", "is not YAML"),
        ("epochs: 3\nbatch: 8\n", "lr is missing"),
        ("epochs: 0\nbatch: 8\nlr: 1e-3\n", r"epochs = 0 is not possible: allowed is 1 or more"),
        ("epochs: 3\nbatch: 8\nlr: -1\n", r"lr = -1 is not possible"),
        ("epochs: 3\nbatch: 8\nlr: .nan\n", r"lr = nan is not possible"),
        ("epochs: 3\nbatch: 8\nlr: many\n", r"lr = 'many' is not possible"),
        ("epochs: 3\nbatch: 8\nlr: 1\nepoch: 3\n", r"no setting 'epoch' \(did you mean 'epochs'\?\)"),
        ("epochs: 3\nbatch: 8\nlr: 1\nprecision: half\n", r"precision = 'half' is not possible: allowed is float32"),
        ("epochs: 3\nbatch: 8\nlr: 1\naugmentation:\n  flips: 1\n", r"no setting 'flips' \(did you mean 'flip'\?\)"),
        ("epochs: 3\nbatch: 8\nlr: 1\naugmentation:\n  flip: 2\n", r"flip is 2"),
        ("epochs: 3\nbatch: 8\nlr: 1\naugmentation: 7\n", r"is not a recipe"),
    ],
)
def test_a_bad_file_is_answered_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.yaml cannot be read: No such file"):
        load_recipe(tmp_path / "absent.yaml")


def test_another_batch_scales_the_rate_by_the_square_root() -> None:
    recipe = Recipe(name="r", epochs=1, batch=64, lr=1e-3)
    assert recipe.changed(**CHANGE | {"batch": 256}).lr == pytest.approx(2e-3)
    assert recipe.changed(**CHANGE | {"batch": 256, "lr": 5e-4}).lr == 5e-4
    assert recipe.changed(**CHANGE) == recipe
