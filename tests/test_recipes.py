"""Every recipe names known models, data and options, and says at its head what it is for."""

from pathlib import Path

import pytest

import train
from models import MODELS

RECIPES = sorted((Path(train.__file__).parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_builds_its_model(recipe):
    assert recipe.read_text().startswith("# ")
    names, flags = train.chosen(["--config", str(recipe)])
    args = train.build_parser(names).parse_args(flags)
    options = args.model.as_dict()
    protocol = args.data.as_dict().get("binarization", "larochelle")
    MODELS[options.pop("name")](image_shape=(1, 28, 28), **options).check_protocol(protocol)


def test_there_are_recipes():
    assert len(RECIPES) >= 8
