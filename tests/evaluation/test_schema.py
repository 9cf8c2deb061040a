"""evaluation/schema.py: the fields of evaluation.json."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from evaluation.schema import (
    KEYS,
    ComparedEvaluation,
    Difference,
    Evaluation,
    PublishedReference,
    markdown_table,
    to_json,
)

ROOT = Path(__file__).parents[2]
# Written before results were a dataclass; two keys were left out of them, as in files of older versions
FILES = sorted((ROOT / "tests" / "data" / "5fb90a3").rglob("evaluation.json"))
LEFT_OUT = {"pixels_nll", "weights_hash"}
# beginnings of keys that did not exist yet
NEWER = (
    "bits_per_dim",
    "duplicates",
    "px_scale",
    "parzen_",
    "two_sample_",
    "label_pixels",
    "calibration_error",
    "images_read_as",
    "prior",
    "posterior",
    "kl_per_layer",
)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.parent.name)
def test_files_of_an_earlier_version_are_read_and_written_as_they_are(file):
    content = json.loads(file.read_text())
    found = Evaluation.from_dict(content)
    assert {key: value for key, value in found.to_dict().items() if key in content} == content
    assert [key for key in found.to_dict() if key in content] == list(content)
    assert {key for key in set(KEYS) - set(content) if not key.startswith(NEWER)} == LEFT_OUT


def test_there_are_such_files():
    assert len(FILES) == 3


def test_missing_keys_are_null_and_unknown_keys_are_ignored():
    found = Evaluation.from_dict({"checkpoint": "a.ckpt", "nll": 3.0, "of_a_newer_version": 1})
    assert (found.checkpoint, found.nll, found.ais_nll) == ("a.ckpt", 3.0, None)
    assert tuple(found.to_dict()) == KEYS


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="nll_sd"):
        Evaluation(nll_sd=1.0)


def test_every_field_has_a_type_and_a_meaning():
    hints = get_type_hints(Evaluation, include_extras=True)
    assert tuple(hints) == KEYS
    for annotation in hints.values():
        _, doc = get_args(annotation)
        assert doc.meaning.endswith(".")


def test_the_documentation_has_the_table_of_all_keys():
    assert markdown_table() in (ROOT / "docs" / "evaluate.md").read_text()


def test_json_has_neither_numpy_numbers_nor_numbers_that_are_not_finite():
    value = {"a": np.float64(2.5), "b": [np.int64(3), float("nan")], "c": (float("inf"), "d", None, True)}
    assert json.dumps(to_json(value), allow_nan=False) == '{"a": 2.5, "b": [3, null], "c": [null, "d", null, true]}'


def reference(**changes):
    known = {"quantity": "nll", "value": 86.76, "se": None, "source": "A paper", "epochs": 3, "differences": None}
    return PublishedReference(**known | {"remark": "A remark", "summary": "In words"} | changes)


@pytest.mark.parametrize(("changes", "name", "more"), [
    ({}, "paper_nll", {}),
    ({"quantity": "test_error"}, "paper_error", {}),
    ({"differences": "tanh, not relu"}, "nearest_nll", {"paper_differences": "tanh, not relu"}),
    ({"differences": "", "quantity": "test_error"}, "nearest_error", {"paper_differences": ""}),
])  # fmt: skip
def test_a_published_number_is_named_by_its_comparability(changes, name, more):
    assert reference(**changes).to_dict() == {
        name: 86.76,
        f"{name}_se": None,
        "paper_source": "A paper",
        "paper_epochs": 3,
        **more,
        "paper_remark": "A remark",
        "words": "In words",
    }


def test_comparisons_follow_the_keys_of_the_evaluation_and_have_none_if_they_are_absent():
    assert list(ComparedEvaluation().to_dict()) == [*KEYS, "options"]
    versus = {"a": Difference(1.0, 0.5), "b": Difference(2.0, None)}
    found = ComparedEvaluation(paper=reference(), options={"z_dim": 3}, versus=versus).to_dict()
    assert list(found) == [*KEYS, *reference().to_dict(), "options", "versus", "versus_first", "versus_first_se"]
    assert found["versus"] == {"a": {"nll": 1.0, "se": 0.5}, "b": {"nll": 2.0, "se": None}}
    assert (found["versus_first"], found["versus_first_se"]) == (1.0, 0.5)
