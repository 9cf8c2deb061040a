"""AffineVAE: poses and their sign conventions (those of torchvision), likelihood and label head."""

import math
from itertools import chain, permutations

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import InterpolationMode, affine

from datamodules import DATAMODULES
from models import MODELS, VAE, AffineVAE
from models.affine import TRANSFORMS, affine_map, inverse
from models.base import evaluating

PARTS = [name for name in TRANSFORMS if name != "affine"]
SUBSETS = list(chain.from_iterable(permutations(PARTS, n) for n in (1, 2, 3)))
subsets = pytest.mark.parametrize("transforms", SUBSETS, ids="-".join)
any_transforms = pytest.mark.parametrize("transforms", [("affine",), *SUBSETS], ids="-".join)


def latents(transforms):
    return sum(TRANSFORMS[name] for name in transforms)


def square(A):
    """Return affine maps `(..., 2, 3)` as 3x3 matrices."""
    return torch.cat([A, torch.tensor([0.0, 0.0, 1.0], dtype=A.dtype).expand(*A.shape[:-2], 1, 3)], -2)


class Picture(nn.Module):
    """A decoder of a known image: two blobs, as a function of (x, y), the first two features of a pixel."""

    def forward(self, h):
        x, y = h[:, 0], h[:, 1]
        right = 0.9 * (-((x - 0.3) ** 2 + y**2) / 0.02).exp()
        above = 0.5 * (-((x + 0.1) ** 2 + (y + 0.35) ** 2) / 0.02).exp()
        return (right + above).clamp(1e-4, 1 - 1e-4).logit()[:, None]


def painted(shape, transforms=("affine",), s=0.3):
    """A model whose canonical image has, for any code, a bright blob on the right and a dim one above the centre."""
    model = AffineVAE(shape, z_dim=latents(transforms) + 2, transforms=transforms, transform_scale=s, hidden=[4])
    nn.init.zeros_(model.decoder.first.weight)
    nn.init.zeros_(model.decoder.first.bias)
    nn.init.zeros_(model.decoder.place.weight)
    with torch.no_grad():
        model.decoder.place.weight[:2] = torch.eye(2)
    model.decoder.rest = Picture()
    return model.eval()


def pose_of(degrees, shift, scale, side):
    """Return a transform in the convention of torchvision: clockwise, pixels right and down; y points downwards."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    right = [scale * cos, scale * sin]  # image of the unit vector to the right; clockwise is downwards
    down = [-scale * sin, scale * cos]
    return torch.tensor([[right[0], down[0], 2 * shift[0] / side], [right[1], down[1], 2 * shift[1] / side]])


def latents_of(A, transforms, s):
    """Return the latents of an affine map: the inverse of `affine_map`, by hand."""
    if transforms == ("affine",):
        return (A - torch.eye(2, 3)).flatten() / s
    parts = {
        "rotation": torch.atan2(A[1, 0], A[0, 0])[None],
        "scale": A[:, 0].norm().log()[None],
        "shift": A[:, 2],
    }
    return torch.cat([parts[name] for name in transforms]) / s


def code_of(pose, transforms=("affine",), s=0.3):
    return torch.cat([torch.tensor([0.3, -0.7]), latents_of(inverse(pose), transforms, s)])[None]


def centre(image):
    """Return the column and row of the centre of brightness."""
    image = image.squeeze().double()
    image = image * (image > 0.3)
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in image.shape)
    return (image.sum(0) @ columns / image.sum()).item(), (image.sum(1) @ rows / image.sum()).item()


# Signs and axes


@pytest.mark.parametrize(("pose", "expected"), [
    (pose_of(0, (0, 0), 1, 41), (28, 20)),  # to the right of the middle, (20, 20)
    (pose_of(90, (0, 0), 1, 41), (20, 28)),  # clockwise: below
    (pose_of(-90, (0, 0), 1, 41), (20, 12)),
    (pose_of(180, (0, 0), 1, 41), (12, 20)),
    (pose_of(0, (3, 0), 1, 41), (31, 20)),
    (pose_of(0, (0, 5), 1, 41), (28, 25)),
    (pose_of(0, (0, 0), 1.5, 41), (32, 20)),
    (pose_of(90, (3, 5), 1.5, 41), (23, 37)),  # rotated and scaled about the centre, then shifted
])  # fmt: skip
def test_the_transform_has_the_sign_convention_of_torchvision(pose, expected):
    model = painted((1, 41, 41))
    model.decoder.rest.forward = lambda h: 40 * (0.1 - ((h[:, :1] - 16 / 41) ** 2 + h[:, 1:2] ** 2).sqrt())
    assert centre(model.decode(code_of(pose))) == pytest.approx(expected, abs=0.3)


MOVES = [(20, (0, 0), 1), (0, (3, -2), 1), (0, (0, 0), 0.85), (-35, (0, 0), 1), (25, (-2, 3), 1.15), (160, (1, 2), 0.9)]


@pytest.mark.parametrize("shape", [(1, 40, 40), (1, 32, 48), (1, 48, 32), (1, 41, 37)])
@pytest.mark.parametrize(("degrees", "shift", "scale"), MOVES)
@pytest.mark.parametrize("transforms", [("affine",), ("rotation", "scale", "shift"), ("shift", "scale", "rotation")])
def test_a_known_transform_is_recovered_by_the_canonical_image(monkeypatch, shape, degrees, shift, scale, transforms):
    model, side = painted(shape, transforms), max(shape)
    before = pose_of(-12, (1.0, 0.5), 1.05, side)
    T = pose_of(degrees, shift, scale, side)
    after = (square(T) @ square(before))[:2]
    drawn = model.decode(code_of(before, transforms))
    moved = affine(drawn[0], degrees, list(shift), scale, shear=[0.0], interpolation=InterpolationMode.BILINEAR)
    expected = model.decode(code_of(after, transforms))[0]
    assert (moved - expected).abs().max() < 0.06  # error of the interpolation
    assert (drawn[0] - expected).abs().max() > 0.3  # control: it has moved
    monkeypatch.setattr(model, "encode", lambda x: torch.cat([code_of(pose, transforms) for pose in (before, after)]))
    old, new = model.pose(drawn)
    torch.testing.assert_close(old, before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(new, (square(T) @ square(old))[:2], rtol=1e-4, atol=1e-5)


def test_pose_and_content_are_those_of_the_posterior_mean(make, binary):
    model, (x, _) = make("AffineVAE").eval(), binary(5)
    mean = model.posterior(x).mean
    torch.testing.assert_close(model.content(x), mean[:, :4])
    A = torch.eye(2, 3) + 0.1 * mean[:, 4:].view(5, 2, 3)
    torch.testing.assert_close(square(model.pose(x)) @ square(A), torch.eye(3).expand(5, 3, 3), rtol=1e-4, atol=1e-5)


# The maps


@any_transforms
def test_latents_of_zero_are_the_identity(transforms):
    p = torch.zeros(4, latents(transforms))
    torch.testing.assert_close(affine_map(p, transforms, 0.3), torch.eye(2, 3).expand(4, 2, 3))


def test_affine_is_the_identity_plus_the_scaled_latents():
    p = torch.arange(1.0, 7)
    expected = torch.tensor([[1.1, 0.2, 0.3], [0.4, 1.5, 0.6]])
    torch.testing.assert_close(affine_map(p, ["affine"], 0.1), expected)


@subsets
@pytest.mark.parametrize("leading", [(), (3, 50)])
def test_each_transform_moves_points_as_named_in_any_order(transforms, leading):
    p, s = torch.randn(*leading, latents(transforms)), 0.4
    A = affine_map(p, transforms, s)
    assert A.shape == (*leading, 2, 3)
    parts = dict(zip(transforms, p.split([TRANSFORMS[name] for name in transforms], -1), strict=True))
    M, zero = A[..., :2], torch.zeros(leading)
    factor = (s * parts["scale"][..., 0]).exp() if "scale" in parts else zero + 1
    assert (factor > 0).all()
    torch.testing.assert_close(M.mT @ M, factor[..., None, None] ** 2 * torch.eye(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(M), factor**2)  # no reflection
    angle = s * parts["rotation"][..., 0] if "rotation" in parts else zero
    # a unit to the right turns towards y for positive angles
    torch.testing.assert_close(M[..., 0], factor[..., None] * torch.stack([angle.cos(), angle.sin()], -1))
    torch.testing.assert_close(A[..., 2], s * parts["shift"] if "shift" in parts else torch.zeros(*leading, 2))


def test_the_prior_of_each_transform():
    torch.manual_seed(5)
    n, s = 200_000, 0.1
    A = affine_map(torch.randn(n, 4), PARTS, s)
    samples = {
        "angle": torch.atan2(A[:, 1, 0], A[:, 0, 0]),
        "log factor": torch.linalg.det(A[..., :2]).log() / 2,
        "right": A[:, 0, 2],
        "down": A[:, 1, 2],
    }
    values = torch.stack(list(samples.values()))
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=4 * s / math.sqrt(n), rtol=0)
    torch.testing.assert_close(values.cov(), s**2 * torch.eye(4), atol=6 * s**2 / math.sqrt(n), rtol=0)
    assert (values.abs() < s).float().mean().item() == pytest.approx(0.6827, abs=0.003)  # normal


@pytest.mark.parametrize("s", [0.05, 0.1])
def test_the_prior_of_the_full_affine_map(s):
    # 4 degrees at 0.1: the scale that the article has
    torch.manual_seed(5)
    n = 200_000
    A = affine_map(torch.randn(n, 6), ["affine"], s)
    angle = torch.atan2(A[:, 1, 0] - A[:, 0, 1], A[:, 0, 0] + A[:, 1, 1])
    assert angle.std().item() == pytest.approx(s / math.sqrt(2), rel=0.02)
    torch.testing.assert_close(A.mean(0), torch.eye(2, 3), atol=5 * s / math.sqrt(n), rtol=0)
    torch.testing.assert_close(A.std(0), torch.full((2, 3), s), rtol=0.01, atol=0)


@pytest.mark.parametrize("leading", [(), (7,), (2, 7)])
def test_the_inverse(leading):
    A = torch.eye(2, 3) + 0.3 * torch.randn(*leading, 2, 3)
    B = inverse(A)
    assert B.shape == A.shape
    for product in (square(A) @ square(B), square(B) @ square(A)):
        torch.testing.assert_close(product, torch.eye(3).expand(*leading, 3, 3), rtol=1e-4, atol=1e-4)


# Rendering


@any_transforms
def test_without_a_transform_decode_returns_the_canonical_image(make, binary, transforms):
    model, (x, _) = make("AffineVAE", transforms=list(transforms)).eval(), binary(5)
    z = model.encode(x)
    at_zero = torch.cat([z[:, : model.code_dim], torch.zeros(5, latents(transforms))], 1)
    torch.testing.assert_close(model.canonical(x), model.decode(at_zero))
    torch.testing.assert_close(
        model.canonical(x), model.decoder(z[:, : model.code_dim]).sigmoid()
    )  # decoding at the trained size
    assert (model.canonical(x) - model.reconstruct(x)).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 20, 31), (3, 9, 7)])
def test_render_at_the_trained_size_is_decode(make, binary, shape):
    model, (x, _) = make("AffineVAE", shape).eval(), binary(4, shape)
    z = model.encode(x)
    for size in (None, shape[1:]):
        assert torch.equal(model.render(z, size), model.decode(z))
        assert torch.equal(model.render(z, size), model.reconstruct(x))
        assert torch.equal(model.canonical(x, size), model.canonical(x))
    for leading in ((), (3, 2)):
        assert model.render(torch.randn(*leading, 10), (5, 6)).shape == (*leading, shape[0], 5, 6)
    assert not model.render(z).requires_grad


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 20, 31)])
def test_rendering_at_four_times_the_size_shows_the_same_image(shape):
    model, z = painted(shape), torch.cat([torch.zeros(3, 2), torch.randn(3, 6)], 1)
    large = model.render(z, (4 * shape[1], 4 * shape[2]))
    assert large.shape == (3, 1, 4 * shape[1], 4 * shape[2])
    difference = (nn.functional.avg_pool2d(large, 4) - model.decode(z)).abs().max()
    assert difference < 0.1
    assert (nn.functional.avg_pool2d(large.flip(-1), 4) - model.decode(z)).abs().max() > 0.3  # the control
    canonical = nn.functional.avg_pool2d(model.canonical(torch.rand(1, *shape), large.shape[-2:]), 4)
    assert (canonical - model.canonical(torch.rand(1, *shape))).abs().max() < 0.05


def test_a_gaussian_likelihood_renders_its_mean(make, binary):
    model, (x, _) = make("AffineVAE", likelihood="gaussian").eval(), binary(4)
    z = model.encode(x)
    torch.testing.assert_close(model.render(z), model.px(z).mean)
    torch.testing.assert_close(model.canonical(x), model.decoder(z[:, :4]).sigmoid())


# The likelihood


@pytest.mark.parametrize("options", [
    {}, {"batch_norm": True}, {"encoder": "conv"}, {"encoder": "resnet"},
    {"transforms": ["rotation", "shift"]}, {"transforms": ["scale"]},
    {"transform_scale": 0.5}, {"label_weight": 1.0},
], ids=str)  # fmt: skip
def test_p_of_all_binary_images_sums_to_1(make, squares, options):
    model = make("AffineVAE", (1, 2, 2), **options)
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.6 if key.startswith("decoder") else 0.1)
    with torch.no_grad():
        model.train().log_weights(squares, 4)
    with evaluating(model, seed=4):
        p = model.log_weights(squares, 20_000).double().exp()  # (K, 16)
    total, error = p.sum(1).mean(), p.sum(1).std() / math.sqrt(len(p))
    assert error < 0.02
    assert abs(total - 1) < 4 * error
    assert p.mean(0).max() > 2 * p.mean(0).min()  # p(x) is not uniform


def test_log_weights_against_a_naive_loop(make, binary):
    model, (x, _), s = make("AffineVAE"), binary(3), 0.1
    torch.manual_seed(3)
    log_w = model.log_weights(x, 4)
    torch.manual_seed(3)
    eps = torch.empty(4, 3, 10).normal_()
    normal = torch.distributions.Normal(0.0, 1.0)
    for b in range(3):
        mu, raw = model.encoder(x[b : b + 1])[0].chunk(2)
        sigma = (7 * (raw / 7).tanh()).exp()
        for k in range(4):
            z = mu + sigma * eps[k, b]
            A = torch.tensor([[1.0, 0, 0], [0, 1, 0]]) + s * torch.stack([z[4:7], z[7:10]])
            logits = model.decoder(z[:4], transform=A)
            log_px = torch.distributions.Bernoulli(logits=logits).log_prob(x[b]).sum()
            log_q = torch.distributions.Normal(mu, sigma).log_prob(z).sum()
            torch.testing.assert_close(log_w[k, b], log_px + normal.log_prob(z).sum() - log_q)


def test_the_first_1000_test_images_by_default():
    assert AffineVAE.default_limit == 1000


# The label head


def loss_and_gradients(model, x, y):
    torch.manual_seed(3)
    model.zero_grad()
    loss = model.loss(x, y)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.encoder.parameters()]


def test_with_label_weight_0_there_is_no_label_head(make, binary):
    model, (x, y) = make("AffineVAE"), binary(8)
    assert not any("head" in key for key in model.state_dict())
    assert "error" not in model.metric_names
    loss, gradients = loss_and_gradients(model, x, y)
    other, other_gradients = loss_and_gradients(model, x, (y + 1) % 3)
    assert loss == other
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def test_the_label_head_adds_its_cross_entropy_to_the_loss_only(make, binary):
    x, y = binary(8)
    y[::3] = -1
    plain, headed = make("AffineVAE").eval(), make("AffineVAE", label_weight=0.7).eval()
    loss, gradients = loss_and_gradients(plain, x, y)
    other, other_gradients = loss_and_gradients(headed, x, y)
    mu = headed.encoder(x)[:, :4]
    each = [-(headed.head(mu[i]).log_softmax(0)[y[i]]) for i in range(8) if y[i] >= 0]
    assert other - loss == pytest.approx(0.7 * torch.stack(each).mean().item(), rel=1e-4)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(gradients, other_gradients, strict=True))
    measured = []
    for model in (plain, headed):
        with evaluating(model, seed=4):
            measured.append((model.validation_metrics(x, y), model.log_weights(x, 3)))
    for key in ("bound", "elbo", "rate", "distortion"):
        assert torch.equal(measured[0][0][key], measured[1][0][key])
    assert torch.equal(measured[0][1], measured[1][1])


def test_unlabelled_images_do_not_contribute_to_the_label_loss(make, binary):
    model, (x, y) = make("AffineVAE", label_weight=1.0), binary(8)
    y[3:] = -1
    other = x.clone()
    other[3:] = 1 - x[3:]
    torch.testing.assert_close(model.label_loss(model.posterior(x), y), model.label_loss(model.posterior(x[:3]), y[:3]))
    torch.testing.assert_close(model.label_loss(model.posterior(x), y), model.label_loss(model.posterior(other), y))
    assert model.validation_metrics(x, y)["error"].shape == (3,)


def test_a_batch_without_any_label(make, binary):
    x, y = binary(8)[0], torch.full((8,), -1)
    loss, gradients = loss_and_gradients(make("AffineVAE"), x, y)
    other, other_gradients = loss_and_gradients(make("AffineVAE", label_weight=1.0), x, y)
    assert loss == other
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))
    assert make("AffineVAE", label_weight=1.0).validation_metrics(x, y)["error"].shape == (0,)


def test_the_error_is_the_share_of_wrong_classes(make, binary, validate):
    model, (x, y) = make("AffineVAE", label_weight=1.0), binary(9)
    nn.init.zeros_(model.head.weight)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # class 1, whatever the image
    y = torch.tensor([1, 1, 1, 0, 2, -1, -1, 0, 1])
    assert model.validation_metrics(x, y)["error"].tolist() == [False, False, False, True, True, True, False]
    assert validate(model, [(x[:4], y[:4]), (x[4:], y[4:])])["val/error"].item() == pytest.approx(3 / 7)


def test_the_label_head_gets_only_the_content(make, binary):
    model, (x, y) = make("AffineVAE", label_weight=1.0), binary(8)
    assert model.head.in_features == model.code_dim == 4
    model.label_loss(model.posterior(x), y).backward()
    gradient = model.encoder.output.bias.grad
    assert gradient[:4].all()
    assert not gradient[4:].any()  # the map's means, and all scales


def test_the_head_learns_from_the_data_it_is_given(fit):
    data = DATAMODULES["Digits"](batch_size=500)
    data.setup()
    options = {"hidden": [32], "decoder_hidden": [8], "lr": 1e-2}
    errors = {}
    for label_weight in (1e-6, 100.0):
        model = MODELS["AffineVAE"].for_data(data, label_weight=label_weight, **options)
        metrics = fit(model, list(data.train_dataloader()), max_epochs=8).callback_metrics
        errors[label_weight] = metrics["val/error"].item()
    assert errors[100.0] < 0.4 < 0.6 < errors[1e-6]


# Invalid options


@pytest.mark.parametrize(("options", "sentence"), [
    ({"transforms": []}, r"transforms must be affine, or of rotation, scale, shift one or more; got \[\]\."),
    ({"transforms": ["shear"]}, r"transforms must be affine, or of .*; got \['shear'\]\."),
    ({"transforms": ["shift", "shift"]}, r"transforms must be .*; got \['shift', 'shift'\]\."),
    ({"transforms": ["affine", "shift"]}, r"affine holds all other transforms: .*; got \['affine', 'shift'\]\."),
    ({"transform_scale": 0.0}, r"transform_scale must be positive and finite; got 0\.0\."),
    ({"transform_scale": -0.1}, r"transform_scale must be positive and finite; got -0\.1\."),
    ({"transform_scale": math.nan}, r"transform_scale must be positive and finite; got nan\."),
    ({"transform_scale": math.inf}, r"transform_scale must be positive and finite; got inf\."),
    ({"z_dim": 6}, r"The map takes 6 of the latents: z_dim must be larger; got 6\."),
    ({"z_dim": 3, "transforms": ["shift", "rotation"]}, r"The map takes 3 of the latents: .*; got 3\."),
    ({"z_dim": 0}, r"The map takes 6 of the latents: .*; got 0\."),
    ({"decoder": "mlp"}, r"AffineVAE needs a decoder that draws by coordinates, and mlp does not: choose coordinate\."),
    ({"encoder": "gated", "decoder": "gated"}, "AffineVAE needs a decoder that draws by coordinates, .*"),
    ({"decoder": "gru"}, r"Unknown decoder 'gru': choose one of mlp, conv, coordinate, dcgan, resnet, gated, .*"),
    ({"decoder_hidden": [0]}, r"hidden must hold positive sizes, .*"),
    ({"decoder_hidden": []}, r"The coordinate decoder needs at least one entry in hidden, .*\."),
    ({"label_weight": -1.0}, r"label_weight must not be negative; got -1\.0\."),
    ({"label_weight": math.nan}, r"label_weight must not be negative; got nan\."),
    ({"label_weight": 1.0, "num_classes": 0}, r"label_weight needs labels of two classes or more: .*\."),
    ({"label_weight": 1.0, "num_classes": 1}, r"label_weight needs labels of two classes or more: .*\."),
])  # fmt: skip
def test_invalid_options_are_refused(make, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make("AffineVAE", **options)


@any_transforms
def test_the_smallest_z_dim_with_content(make, binary, transforms):
    model = make("AffineVAE", transforms=list(transforms), z_dim=latents(transforms) + 1)
    assert model.code_dim == 1
    assert model.loss(*binary(3)).isfinite()
    assert model.sample(2).shape == (2, 1, 8, 8)


def test_the_decoders_widths_are_named_from_the_code_to_the_pixel(make):
    model = make("AffineVAE", decoder_hidden=[9, 7])
    assert (model.decoder.first.out_features, model.decoder.output.in_features) == (9, 7)
    assert model.encoder.output.in_features == 16  # by `hidden`


def test_the_posterior_starts_as_wide_as_the_prior():
    """A VAE starts with a narrow posterior to prevent collapse. With a coordinate decoder there is no collapse."""
    x = torch.rand(50, 1, 12, 12)
    scale = {kind: kind((1, 12, 12), z_dim=8).posterior(x).stddev.mean().item() for kind in (AffineVAE, VAE)}
    assert scale[AffineVAE] == pytest.approx(1, rel=0.3)
    assert scale[VAE] < 0.2
