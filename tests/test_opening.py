"""opening.py and evaluation_options.py: checkpoints by patterns, and options of AIS."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from evaluation_options import build_evaluation_parser, check_ais
from opening import expand


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/best.ckpt", "a/best.ckpt", "a/last.ckpt", "c/notes.txt", "d[2]/best.ckpt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (["b/best.ckpt", "a/best.ckpt"], ["b/best.ckpt", "a/best.ckpt"]),
        (["?/best.ckpt"], ["a/best.ckpt", "b/best.ckpt"]),
        (["*/*.ckpt"], ["a/best.ckpt", "a/last.ckpt", "b/best.ckpt", "d[2]/best.ckpt"]),
        (["**/best.ckpt"], ["a/best.ckpt", "b/best.ckpt", "d[2]/best.ckpt"]),
        (["b/best.ckpt", "[ab]/best.ckpt"], ["b/best.ckpt", "a/best.ckpt"]),
        (["a/best.ckpt", "a/best.ckpt"], ["a/best.ckpt"]),
        (["nowhere.ckpt"], ["nowhere.ckpt"]),  # about which the reader has something to say
        (["d[2]/best.ckpt"], ["d[2]/best.ckpt"]),  # as a shell gives it that has expanded d*
    ],
)
def test_patterns_are_expanded_in_order_and_each_path_once(folders, patterns, paths):
    assert expand(patterns) == paths


def test_a_pattern_of_nothing_is_named(folders):
    with pytest.raises(ValueError, match=r"^No checkpoint matches c/\*\.ckpt: give the path of a \.ckpt file, or "):
        expand(["a/best.ckpt", "c/*.ckpt"])


def options(*argv) -> Namespace:
    return build_evaluation_parser().parse_args(["a.ckpt", *argv])


@pytest.mark.parametrize("name", ["images", "chains", "temperatures", "leapfrogs"])
def test_ais_counts_from_1(name):
    check_ais(options("--ais", f"--ais_{name}", "1"))
    for value in ("0", "-3"):
        with pytest.raises(ValueError, match=rf"^--ais_{name} must be at least 1; got {value}\.$"):
            check_ais(options("--ais", f"--ais_{name}", value))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--ais_images", "10"], "--ais_images"),
        (["--ais_chains", "16"], "--ais_chains"),
        (["--ais_start", "posterior"], "--ais_start"),
        (["--ais_leapfrogs", "3", "--ais_temperatures", "20"], "--ais_temperatures, --ais_leapfrogs"),
        (["--ais_images", "10", "--no_ais"], "--ais_images"),
    ],
)
def test_options_of_ais_do_nothing_without_it(flags, named):
    with pytest.raises(ValueError, match=f"^{named} would do nothing without --ais: add it"):
        check_ais(options(*flags))


def test_with_it_or_without_any_there_is_nothing_to_say():
    check_ais(options())
    check_ais(options("--ais"))
    check_ais(options("--ais", "--ais_images", "10", "--ais_start", "posterior"))
