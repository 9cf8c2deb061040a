"""Every recipe names known models, data and options, and says at its head what it is for."""

from pathlib import Path

import pytest

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
RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


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


def test_there_are_recipes():
    assert len(RECIPES) >= 8
