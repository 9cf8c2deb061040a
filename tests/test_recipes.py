"""Every recipe names known models, data and options, and says at its head what it is for."""

import re
from pathlib import Path

import pytest
import yaml

from cli import train_options
from models import MODELS

FROM_DATA = {
    "image_shape": (1, 28, 28),
    "num_classes": 10,
    "labelled_fraction": 0.1,
    "m1_options": {"image_shape": (1, 28, 28), "z_dim": 5},
    "ae_options": {"image_shape": (1, 28, 28), "z_dim": 5},
    "kept": [0, 2],
}
FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_builds_its_model(recipe):
    assert recipe.read_text().startswith("# ")
    names, flags = train_options.split_component_flags(["--config", str(recipe)])
    args = train_options.build_parser(names).parse_args(flags)
    kwargs = args.model.as_dict()
    protocol = args.data.as_dict().get("binarization", "larochelle")
    model = MODELS[kwargs.pop("name")]
    given = {name: FROM_DATA[name] for name in (*model.data_args, *model.checkpoint_args)}
    built = model(**given, **kwargs)
    (built.m1 if hasattr(built, "m1") else built).check_protocol(protocol)


def test_the_index_has_one_row_for_each_recipe_with_its_model_data_and_epochs():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(.+?)`\]\((.+?)\) \| (\w+).*? \| (\w+).*? \| (\d+) \|", index, re.MULTILINE)
    expected = []
    for recipe in RECIPES:
        options = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        epochs = str(options["trainer"]["max_epochs"])
        expected.append((recipe.name, recipe.name, options["model"]["name"], options["data"]["name"], epochs))
    assert sorted(rows) == sorted(expected)


def test_there_are_recipes():
    assert len(RECIPES) >= 8
