import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from evaluation.baselines import baselines, wants_baselines
from models import MODELS, VAE
from models.m1m2 import used_latents


class Linear(VAE):
    """An M1 whose posterior means are the four pixels of an image; the last one tells nothing."""

    def encode(self, x, y=None):
        return x.flatten(1)


def classes(n):
    """Two classes that the first pixel tells apart, beside noise of its scale and of a far smaller one."""
    generator = torch.Generator().manual_seed(n)
    y = torch.arange(n) % 2
    x = torch.randn(n, 1, 2, 2, generator=generator)
    x[:, 0, 0, 0] = y + 0.2 * x[:, 0, 0, 0]
    x[:, 0, 0, 1] *= 0.5
    x[:, 0, 1, 0] *= 0.15  # would drown the first pixel if it were standardised
    x[:, 0, 1, 1] *= 1e-3
    return x, y


@pytest.fixture
def m1():
    return Linear(image_shape=(1, 2, 2), z_dim=4, hidden=[4])


def test_latents_tell_the_classes_apart(m1):
    errors = baselines(m1, classes(200), classes(100))
    assert list(errors) == ["MLP", "M1+SVM", "M1+logreg", "M1+5-NN"]
    assert max(errors.values()) < 0.15


def test_hidden_labels_and_unused_latents_have_no_part_in_it(m1):
    x, y = classes(60)
    known = y.where(torch.arange(60) < 20, -1)
    errors = baselines(m1, (x, known), classes(100))
    z, z_test = x.flatten(1)[:20, :3].double().numpy(), classes(100)[0].flatten(1)[:, :3].double().numpy()
    nearest = KNeighborsClassifier(5).fit(z, y[:20]).predict(z_test)
    assert errors["M1+5-NN"] == (nearest != classes(100)[1].numpy()).mean()
    assert used_latents(m1, x) == [0, 1, 2]


def test_unknown_test_labels_do_not_count(m1):
    x, y = classes(100)
    assert baselines(m1, classes(60), (x, y.where(y == 0, -1))) == baselines(m1, classes(60), (x[::2], y[::2]))


def test_images_of_classes_without_labelled_training_images_do_not_count(m1):
    x, y = classes(100)
    train = (classes(60)[0], classes(60)[1].where(torch.arange(60) < 50, -1))
    assert baselines(m1, train, (x, y.where(y == 0, 5))) == baselines(m1, train, (x[::2], y[::2]))
    assert baselines(m1, train, (x, torch.full_like(y, 5))) == {}


def test_nothing_to_say(m1):
    x, y = classes(20)
    assert baselines(m1, (x, torch.full_like(y, -1)), (x, y)) == {}
    assert baselines(m1, (x, torch.zeros_like(y)), (x, y)) == {}
    assert baselines(m1, (x, y), (x, torch.full_like(y, -1))) == {}
    assert list(baselines(m1, (torch.zeros_like(x), y), (x, y))) == ["MLP"]  # no latent is in use


@pytest.mark.parametrize("few", [2, 3])
def test_fewer_labels_than_neighbours(m1, few):
    x, y = classes(20)
    assert len(baselines(m1, (x[:few], y[:few]), (x, y))) == 4


def test_the_stack_has_the_baselines_of_its_m1(data, make_model):
    stack = make_model("M1M2")
    train, test = data.images("train", 200), data.images("test")
    assert baselines(stack, train, test) == baselines(stack.m1, train, test)


def test_a_network_on_the_labelled_pixels(data, make_model):
    train, test = data.images("train"), data.images("test")
    few = (train[0], train[1].where(torch.arange(len(train[1])) < 100, -1))
    alone = baselines(make_model("M2"), few, test)
    assert list(alone) == ["MLP"]
    assert 0.02 < alone["MLP"] < 0.4
    assert alone == baselines(make_model("M2"), [part[:100] for part in few], test)
    assert alone["MLP"] == baselines(make_model("M1M2"), few, test)["MLP"]


KINDS = ["AE", "VAE", "IWAE", "AffineVAE", "HierarchicalVAE", "LadderVAE", "CVAE", "M2", "M1M2"]


def test_who_gets_them():
    all_known, few_known = torch.tensor([0, 1, 1]), torch.tensor([0, 1, -1])
    assert all(wants_baselines(kind, few_known, None) == kind.can("classify") for kind in MODELS.values())
    assert [name for name in KINDS if wants_baselines(MODELS[name], few_known, None)] == ["M2", "M1M2"]
    assert not any(wants_baselines(kind, all_known, None) for kind in MODELS.values())
    for y in (all_known, few_known):
        on_request = ["VAE", "IWAE", "AffineVAE", "HierarchicalVAE", "LadderVAE", "M2", "M1M2"]
        assert [name for name in KINDS if wants_baselines(MODELS[name], y, True)] == on_request
        assert not any(wants_baselines(kind, y, False) for kind in MODELS.values())
