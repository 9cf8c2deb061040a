import pytest
import torch

from models import IWAE, VAE
from models.objectives import elbo, iwae


def under(seed, f, *args):
    torch.manual_seed(seed)
    return f(*args)


def test_iwae_is_a_vae_with_other_defaults(make, binary):
    defaults = IWAE(image_shape=(1, 8, 8)).hparams
    assert (defaults.objective, defaults.num_samples) == ("iwae", 5)
    same = make("VAE", objective="iwae", num_samples=5)
    assert under(3, make("IWAE").loss, *binary(4)) == under(3, same.loss, *binary(4))
    back = make("IWAE", objective="elbo", num_samples=1)
    assert under(3, back.loss, *binary(4)) == under(3, make("VAE").loss, *binary(4))


def test_the_loss_is_the_negative_bound_of_its_log_weights(make, binary):
    model, (x, y) = make("IWAE", num_samples=7), binary(4)
    log_w = under(3, model.log_weights, x, 7)
    torch.testing.assert_close(under(3, model.loss, x, y).double(), -(log_w.double().exp().mean(0).log().mean()))


def test_one_sample_is_the_elbo(make, binary):
    model, (x, y) = make("IWAE", num_samples=1), binary(4)
    log_w = under(3, model.log_weights, x, 1)
    assert torch.equal(iwae(log_w), elbo(log_w))
    torch.testing.assert_close(under(3, model.loss, x, y), -log_w.mean())


def test_its_gradient_weights_samples_by_normalized_importance_weights(make, binary):
    model, (x, y) = make("IWAE", num_samples=7), binary(4)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(_weighted(under(3, model.log_weights, x, 7)), parameters)
    actual = torch.autograd.grad(under(3, model.loss, x, y), parameters)
    torch.testing.assert_close(actual, expected)


def _weighted(log_w):
    return -(log_w.softmax(0).detach() * log_w).sum(0).mean()


@pytest.mark.parametrize("options", [{"beta": 2.0}, {"beta_warmup": 3}])
def test_beta_is_refused(options):
    with pytest.raises(ValueError, match="belong to objective elbo"):
        IWAE(image_shape=(1, 8, 8), **options)


def test_more_samples_give_a_tighter_bound(make, binary):
    x, y = binary(2000, (1, 2, 2))
    losses = [make("IWAE", (1, 2, 2), num_samples=K).loss(x, y) for K in (1, 5, 50)]
    assert losses == sorted(losses, reverse=True)
    assert issubclass(IWAE, VAE)
