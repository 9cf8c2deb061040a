"""evaluation/ais.py: which images, in which parts, and how the values are summarised."""

import numpy as np
import pytest
import torch
from exact_models import LinearGaussian

from evaluation import ais
from evaluation.ais import ais_summary, images_per_pass, run_ais
from models import CVAE
from models.estimators import ais as estimators_ais
from models.estimators.ais import Settings, anneal, bidirectional, tune

SETTINGS = Settings(chains=3, temperatures=6, leapfrogs=2)
NAMES = ["ais_acceptance", "ais_log_px", "ais_lower", "ais_upper"]


def images(n, seed=3):
    return torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) * 1.2, torch.zeros(n).long()


@pytest.fixture(autouse=True)
def _short_pilot(monkeypatch):
    """Two moves per temperature: no test here depends on the quality of the steps."""
    monkeypatch.setattr(estimators_ais, "PILOT_MOVES", 2 * SETTINGS.temperatures)


@pytest.fixture
def model():
    return LinearGaussian(exact=True)


@pytest.fixture
def pilot():
    return images(10, seed=4)


@pytest.fixture
def small(monkeypatch):
    """Four images per pass."""
    monkeypatch.setattr(ais, "MAX_DECODER_ROWS", 4 * SETTINGS.chains)


def test_parts_have_as_many_images_as_their_chains_fill_rows(model, small, monkeypatch):
    x = images(1)[0]
    assert images_per_pass(model, SETTINGS, x) == 4
    assert images_per_pass(model, SETTINGS._replace(chains=6), x) == 2
    assert images_per_pass(model, SETTINGS._replace(chains=100), x) == 1
    monkeypatch.setattr(LinearGaussian, "decoder_cost", 2)
    assert images_per_pass(model, SETTINGS, x) == 2


def test_a_value_per_image_and_bounds_of_as_many_simulated_ones(model, pilot, monkeypatch, small):
    arrays = run_ais(model, *images(10), pilot, SETTINGS)
    assert sorted(arrays) == NAMES
    assert {(values.shape, values.dtype) for values in arrays.values()} == {((10,), np.dtype(float))}
    monkeypatch.setattr(ais, "SIMULATED", 7)  # no multiple of a part
    arrays = run_ais(model, *images(10), pilot, SETTINGS)
    assert [arrays[name].shape for name in NAMES] == [(10,), (10,), (7,), (7,)]
    assert ((arrays["ais_acceptance"] > 0) & (arrays["ais_acceptance"] <= 1)).all()


def test_each_part_is_that_of_the_model(model, pilot, small):
    """The steps are those of the pilot, and each part has noise of its own."""
    x, y = images(10)
    arrays, steps = run_ais(model, x, y, pilot, SETTINGS), tune(model, pilot[0], SETTINGS)
    parts = [anneal(model, x[start : start + 4], SETTINGS, steps, seed=start // 4) for start in (0, 4, 8)]
    np.testing.assert_array_equal(arrays["ais_log_px"], torch.cat([part.log_px for part in parts]).numpy())
    bounds = [bidirectional(model, n, SETTINGS, steps, seed=seed) for seed, n in enumerate((4, 4, 2))]
    np.testing.assert_array_equal(arrays["ais_upper"], torch.cat([part.upper for part in bounds]).numpy())
    np.testing.assert_array_equal(arrays["ais_lower"], torch.cat([part.lower for part in bounds]).numpy())
    same = images(1)[0].expand(8, -1, -1, -1)
    again = run_ais(model, same, y[:8], pilot, SETTINGS)["ais_log_px"]
    assert len(set(again.tolist())) == 8


def test_images_of_whole_parts_have_the_same_value_however_many_follow(model, pilot, small):
    """A part that is cut has noise of another shape: its images are as good, and not the same to the bit."""
    x, y = images(11)
    arrays = {n: run_ais(model, x[:n], y[:n], pilot, SETTINGS) for n in (4, 6, 8, 11)}
    for name in ("ais_log_px", "ais_acceptance"):
        for n, whole in ((4, 4), (6, 4), (8, 8)):
            np.testing.assert_array_equal(arrays[n][name][:whole], arrays[11][name][:whole])
        assert (arrays[6][name][4:] != arrays[11][name][4:6]).any()


def test_steps_come_from_other_images(model, pilot, monkeypatch):
    seen = []

    def watched(model, x, *args, **kwargs):
        seen.append(x)
        return tune(model, x, *args, **kwargs)

    monkeypatch.setattr(ais, "tune", watched)
    x, y = images(5)
    run_ais(model, x, y, pilot, SETTINGS)
    assert [torch.equal(tuned, pilot[0]) for tuned in seen] == [True]
    first = run_ais(model, x, y, pilot, SETTINGS)["ais_log_px"]
    assert (first != run_ais(model, x, y, images(10, seed=5), SETTINGS)["ais_log_px"]).any()


def test_bounds_are_those_of_the_chains_that_are_run(model, pilot):
    """Chains from the exact posterior are there already: upper and lower bound are log p(x) itself, as the value is."""
    x, y = images(5)
    arrays = run_ais(model, x, y, pilot, SETTINGS._replace(start="posterior"))
    np.testing.assert_allclose(arrays["ais_log_px"], model.log_p(x), atol=1e-4)
    np.testing.assert_allclose(arrays["ais_upper"], arrays["ais_lower"], atol=1e-4)
    from_prior = run_ais(model, x, y, pilot, SETTINGS)
    assert np.abs(from_prior["ais_log_px"] - model.log_p(x).numpy()).max() > 1e-2
    assert np.abs(from_prior["ais_upper"] - from_prior["ais_lower"]).max() > 1e-2


def test_a_conditional_model_gets_the_labels_of_each_part(monkeypatch, small):
    torch.manual_seed(0)
    model = CVAE(image_shape=(1, 2, 2), num_classes=3, z_dim=2, hidden=[4])
    x, y = torch.rand(10, 1, 2, 2).round(), torch.arange(10) % 3
    given = {"anneal": [], "bidirectional": [], "tune": []}
    for name, of_labels in (("anneal", anneal), ("bidirectional", bidirectional), ("tune", tune)):

        def watched(*args, name=name, of_labels=of_labels, **kwargs):
            given[name].append(args[-1])
            return of_labels(*args, **kwargs)

        monkeypatch.setattr(ais, name, watched)
    run_ais(model, x, y, (x[:2], y[1:3]), SETTINGS)
    assert torch.equal(torch.cat(given["anneal"]), y)
    assert torch.equal(torch.cat(given["bidirectional"]), y)
    assert torch.equal(torch.cat(given["tune"]), y[1:3])


def test_the_bars_count_all_temperatures(model, pilot, small, monkeypatch):
    bars, bar = [], ais.tqdm
    monkeypatch.setattr(ais, "tqdm", lambda **options: bars.append(bar(**options | {"disable": False})) or bars[-1])
    run_ais(model, *images(10), pilot, SETTINGS)
    pilot_run, parts = 20 + 5, 6 * (3 + 2 * 3)
    assert [made.n for made in bars] == [made.total for made in bars] == [pilot_run, parts]


def test_signs_and_means_of_the_summary():
    arrays = {
        "ais_log_px": np.array([-80.0, -82.0, -90.0]),
        "ais_lower": np.array([-70.0, -71.0]),
        "ais_upper": np.array([-69.0, -70.5]),
        "ais_acceptance": np.array([0.5, 0.6, 0.7]),
    }
    log_px = np.array([-81.0, -82.5, -90.0, -1000.0, -1000.0])  # of more images than AIS was run on
    summary = ais_summary(arrays, log_px, SETTINGS)
    assert summary["ais_nll"] == 84.0
    assert summary["ais_nll_se"] == pytest.approx(np.std([80, 82, 90], ddof=1) / 3**0.5)
    assert summary["ais_lowers_nll"] == pytest.approx(0.5)  # AIS - IS of log p(x), which is above 0 where AIS is better
    assert summary["ais_lowers_nll_se"] == pytest.approx(np.std([1, 0.5, 0], ddof=1) / 3**0.5)
    assert summary["ais_gap"] == pytest.approx(0.75)
    assert summary["ais_gap_se"] == pytest.approx(0.25)
    assert summary["ais_acceptance"] == pytest.approx(0.6)
    assert (summary["ais_images"], summary["ais_simulated"]) == (3, 2)
    settings = {key: summary[f"ais_{key}"] for key in ("chains", "temperatures", "leapfrogs", "start")}
    assert settings == SETTINGS._asdict()


def test_one_image_has_no_standard_error():
    arrays = dict.fromkeys(NAMES, np.array([1.0]))
    assert ais_summary(arrays, np.array([0.5]), SETTINGS)["ais_lowers_nll_se"] is None
