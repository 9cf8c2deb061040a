import numpy as np
import pytest
import torch

from evaluation import side_by_side
from evaluation.side_by_side import check_comparable, like, planes, random_points, reconstructions_side_by_side
from figures import grids
from models import MODELS


@pytest.fixture
def pair(make_model):
    return {"plain": make_model("AE", z_dim=2), "variational": make_model(z_dim=2)}


@pytest.fixture
def x(data):
    return data.images("test", 10)[0]


def image_at(figure, tops, lefts, row, column):
    canvas = np.asarray(figure.axes[0].images[0].get_array())[..., 0]
    return canvas[tops[row] : tops[row] + 72 : 9, lefts[column] : lefts[column] + 72 : 9]


def test_inputs_above_the_reconstructions_of_each_model_with_their_codes(pair, x):
    figure = reconstructions_side_by_side(pair, x)
    tops = grids.cell_offsets(3, 72 + grids.LINE)
    lefts = grids.cell_offsets(10, 72)
    rows = [x, *(model.eval().reconstruct(x) for model in pair.values())]
    for row, images in enumerate(rows):
        np.testing.assert_allclose(image_at(figure, tops, lefts, row, 4), images[4, 0], rtol=1e-5, atol=1e-6)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:3] == ["input", "plain", "variational"]
    expected = [f"({a:z.1f}, {b:z.1f})" for model in pair.values() for a, b in model.encode(x).tolist()]
    assert [text for text in texts if text.startswith("(")] == expected


def test_codes_are_written_in_two_dimensions_alone_and_stay_below_their_images(pair, make_model, x):
    figure = reconstructions_side_by_side(pair | {"large": make_model("AE")}, x)
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text().startswith("(")]
    assert len(texts) == 2 * 10
    for text in texts:
        low, high = text.get_window_extent().x0, text.get_window_extent().x1
        assert high - low < 72


def test_the_gaussian_of_random_points_has_the_moments_of_the_codes():
    z = torch.randn(500, 3) @ torch.randn(3, 3) + 5
    torch.manual_seed(0)
    draws = like(z, 200_000)
    torch.testing.assert_close(draws.mean(0), z.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(draws.T.cov(), z.T.cov(), atol=0.1, rtol=0.02)


@pytest.mark.parametrize("z", [torch.ones(5, 3), torch.arange(5.0)[:, None]])
def test_codes_that_do_not_vary_or_have_one_dimension(z):
    assert like(z, 7).shape == (7, z.shape[1])


def test_random_points_are_a_grid_per_model_below_its_name(pair, x):
    state = torch.get_rng_state()
    figure = random_points(pair, x, 10)
    assert torch.equal(torch.get_rng_state(), state)
    canvas = np.asarray(figure.axes[0].images[0].get_array())
    assert canvas.shape[:2] == (3 * 74 - 2, 8 * 74 - 2 + grids.BREAK - grids.GAP)  # 10 points in rows of 4
    assert (canvas[-72:, 2 * 74 : 4 * 74] == 1).all()
    texts = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert texts == {"plain": 0, "variational": 4 * 74 + grids.BREAK - grids.GAP}
    assert (image_at(figure, [0], [0], 0, 0) != image_at(figure, [0], [4 * 74 + 12], 0, 0)).any()


def test_planes_are_beside_each_other(pair, data):
    x, y = data.images("test")
    figure = planes(pair, x, y)
    assert [axes.get_title("left") for axes in figure.axes] == ["plain", "variational"]
    for axes, model in zip(figure.axes, pair.values(), strict=True):
        np.testing.assert_allclose(axes.collections[0].get_offsets(), model.eval().encode(x), rtol=1e-5)


def test_all_of_them_from_the_data_with_an_image_of_each_class(pair, data, monkeypatch):
    drawn = []
    monkeypatch.setattr(side_by_side, "reconstructions_side_by_side", lambda *args: drawn.append(args))
    assert list(side_by_side.draw(pair, data)) == ["reconstructions", "random_points", "codes", "samples"]
    x, y = data.images("test")
    assert torch.equal(drawn[0][1], x[[int((y == label).nonzero()[0]) for label in range(10)]])


def test_models_are_left_in_the_mode_they_were_in(pair, x):
    pair["plain"].train()
    pair["variational"].eval()
    random_points(pair, x, 4)
    assert [model.training for model in pair.values()] == [True, False]


@pytest.mark.parametrize("name", ["CVAE", "M2", "M1M2", "ADGM"])
def test_models_whose_codes_need_a_label_are_refused(make_model, x, name):
    sentence = rf"^{name} cannot be drawn side by side: it does not decode codes without labels\.$"
    with pytest.raises(ValueError, match=sentence):
        planes({"any": make_model(name)}, x, torch.zeros(10))
    with pytest.raises(ValueError, match=sentence):
        check_comparable(MODELS[name])


def test_models_that_can_are_not_refused(make_model):
    for name in ("AE", "VAE", "IWAE", "AffineVAE", "HierarchicalVAE"):
        check_comparable(MODELS[name])
        check_comparable(make_model(name))


def test_images_of_another_shape_and_no_model(pair):
    sentence = r"^plain takes images \(1, 8, 8\), and these are \(1, 9, 8\): choose others\.$"
    with pytest.raises(ValueError, match=sentence):
        random_points(pair, torch.zeros(3, 1, 9, 8))
    with pytest.raises(ValueError, match=r"^There is no model to draw"):
        random_points({}, torch.zeros(3, 1, 8, 8))
