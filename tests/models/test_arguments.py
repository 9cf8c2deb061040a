"""models/arguments.py: the arguments that methods accept, convert and refuse, with one-sentence error messages."""

import numpy as np
import pytest
import torch

from models import MODELS, VAE, ImplicitModel
from models.estimators.ais import Settings, anneal
from models.estimators.importance import importance

SHAPE = (2, 8, 6)  # all sizes differ
OF_IMAGES = (
    "encode",
    "reconstruct",
    "latent_statistics",
    "classify",
    "analogies",
    "canonical",
    "pose",
    "content",
    "features",
    "interpolate",
)
LIKELIHOODS = ("log_weights", "rate_distortion")
EVERY = pytest.mark.parametrize("name", MODELS)
ENCODING = [name for name, kind in MODELS.items() if not issubclass(kind, ImplicitModel)]
CONDITIONAL = [name for name, kind in MODELS.items() if kind.is_conditional]
LABELLED = ["CVAE", "M2", "M1M2", "ADGM", "SDGM"]


def takes_images(model, names=OF_IMAGES):
    """Return the methods of a model that take images, as functions of images and labels."""
    found = {}
    for name in names:
        if not hasattr(model, name):
            continue
        if name == "interpolate":
            found[name] = lambda x, *y: model.interpolate(x, x, 3, "linear", *y, *y)
        elif name in LIKELIHOODS:
            found[name] = lambda x, *y, name=name: getattr(model, name)(x, 2, *y)
        else:
            found[name] = getattr(model, name)
    return found


def refused(call, *args, sentence, **kwargs):
    with pytest.raises(ValueError, match=sentence) as info:
        call(*args, **kwargs)
    assert "\n" not in str(info.value)


def same(a, b):
    """Return whether two results (tensors, or lists of pairs of tensors) are bit-identical."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))


@pytest.fixture
def build(make):
    def trained(name, **options):
        return make(name, SHAPE, **options).eval()

    return trained


@pytest.fixture
def grey():
    return (torch.arange(3 * 2 * 8 * 6).view(3, *SHAPE) % 256).to(torch.uint8)


# Conversion of images


@pytest.mark.parametrize("name", ENCODING)
@pytest.mark.parametrize("form", ["uint8", "array", "reversed", "read-only", "float64", "bool"])
def test_equivalent_image_types_give_identical_results(build, grey, name, form):
    model = build(name)
    y = model.condition_args(torch.tensor([0, 1, 2]))
    if form == "bool":
        grey = (grey > 127).to(torch.uint8) * 255
    expected = grey.float() / 255
    array = grey.numpy()
    frozen = array.copy()
    frozen.flags.writeable = False
    given = {
        "uint8": grey,
        "array": array,
        "reversed": array[::-1].copy()[::-1],
        "read-only": frozen,
        "float64": expected.double(),
        "bool": grey > 0,
    }[form]
    calls = takes_images(model, OF_IMAGES + LIKELIHOODS if form == "bool" else OF_IMAGES)
    assert calls
    for method, call in calls.items():
        results = []
        for images in (given, expected):
            torch.manual_seed(3)
            results.append(call(images, *y))
        assert same(*results), method


def test_uint8_is_scaled_as_in_the_data_modules(build, grey):
    model = build("VAE")
    assert torch.equal(model.as_images(grey), grey.float().div_(255))
    x = torch.rand(2, *SHAPE)
    assert model.as_images(x).data_ptr() == x.data_ptr()  # no copy if nothing changes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_get_the_precision_of_the_weights_at_least_float32(build, grey, dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert build("VAE").to(dtype).as_images(grey).dtype == expected


def test_values_within_the_tolerance_are_accepted(build):
    x = torch.rand(2, *SHAPE)
    x[0, 0, 0, :2] = torch.tensor([-1e-6, 1 + 1e-6])
    assert build("VAE").encode(x).isfinite().all()


# Invalid images

WRONG = {
    "channels last": (torch.rand(2, 8, 6, 2), r"\(B, 2, 8, 6\); got \(2, 8, 6, 2\)\. Channels come first"),
    "single": (torch.rand(2, 8, 6), r"\(B, 2, 8, 6\); got \(2, 8, 6\)\. For a single image pass x\[None\]"),
    "another size": (torch.rand(2, 2, 32, 3), r"\(B, 2, 8, 6\); got \(2, 2, 32, 3\)\."),
    "same number of pixels": (torch.rand(2, 2, 6, 8), r"\(B, 2, 8, 6\); got \(2, 2, 6, 8\)\."),
    "vectors": (torch.rand(2, 96), r"\(B, 2, 8, 6\); got \(2, 96\)\."),
    "one dimension more": (torch.rand(1, 2, 2, 8, 6), r"\(B, 2, 8, 6\); got \(1, 2, 2, 8, 6\)\."),
    "a scalar": (torch.tensor(0.5), r"got \(\)\."),
    "0 to 255 as floats": (torch.rand(2, *SHAPE) * 255, r"in \[0, 1\]; got values from .* to .*Divide them by 255"),
    "-1 to 1": (torch.linspace(-1, 1, 192).view(2, *SHAPE), r"in \[0, 1\]; got values from -1 to 1\.$"),
    "NaN": (torch.rand(2, *SHAPE).index_fill(0, torch.tensor([1]), torch.nan), "must be finite"),
    "infinite": (torch.rand(2, *SHAPE).index_fill(0, torch.tensor([1]), -torch.inf), "must be finite"),
    "whole numbers": (torch.ones(2, *SHAPE, dtype=torch.long), r"floats in \[0, 1\], uint8 .* booleans; got int64"),
    "0 and 1 in bytes": (torch.ones(2, *SHAPE, dtype=torch.uint8), "the largest value here is 1"),
    "complex": (torch.ones(2, *SHAPE, dtype=torch.complex64), "got complex64"),
    "a list": ([[0.0]], "a tensor or a NumPy array; got list"),
    "nothing": (None, "a tensor or a NumPy array; got NoneType"),
    "objects": (np.full((2, *SHAPE), None), "must be numbers"),
    "text": (np.full((2, *SHAPE), "a"), "must be numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODING)
@pytest.mark.parametrize("wrong", WRONG)
def test_every_method_refuses_invalid_images(build, name, wrong):
    model, (x, sentence) = build(name), WRONG[wrong]
    y = model.condition_args(torch.tensor([0, 1]))
    for call in takes_images(model, OF_IMAGES + LIKELIHOODS).values():
        refused(call, x, *y, sentence=sentence)


@pytest.mark.parametrize(("shape", "hint"), [((8, 6), r"x\[None, None\]"), ((3, 8, 6), r"x\[:, None\]")])
def test_a_missing_channel_dimension_is_reported(make, shape, hint):
    refused(make("VAE", (1, 8, 6)).encode, torch.rand(shape), sentence=hint)


@pytest.mark.parametrize("name", ENCODING)
def test_a_bernoulli_likelihood_refuses_grey_images_but_they_can_be_encoded(build, name):
    model, x = build(name), torch.rand(3, *SHAPE)
    y = model.condition_args(torch.tensor([0, 1, 2]))
    assert model.reconstruct(x, *y).shape == x.shape
    calls = takes_images(model, LIKELIHOODS)
    assert bool(calls) == (name != "AE")
    for call in calls.values():
        refused(call, x, *y, sentence=f"This {name} has a Bernoulli likelihood")
        refused(call, x[:0], *(part[:0] for part in y), sentence="at least one image")
    if calls:
        refused(importance, model, x, 5, 5, *y, sentence="Bernoulli likelihood")
        refused(anneal, model, x, Settings(1, 2, 1), [0.1], *y, sentence="Bernoulli likelihood")


@pytest.mark.parametrize("name", ["VAE", "M2"])
def test_a_gaussian_likelihood_accepts_grey_images_in_the_unit_interval(build, grey, name):
    model = build(name, likelihood="gaussian")
    for call in takes_images(model, LIKELIHOODS).values():
        call(grey)
        refused(call, grey.float(), sentence="Divide them by 255")
        refused(call, grey[0], sentence="For a single image")


def test_a_model_of_other_data_than_pixels_accepts_any_range(build):
    class Other(VAE):
        takes_pixels = False

    x = torch.randn(3, *SHAPE)
    model = Other(SHAPE, hidden=[4])
    assert model.log_weights(x, 2).shape == (2, 3)
    assert model.encode(x).shape == (3, 20)
    refused(model.encode, x[0], sentence="must have shape")
    refused(model.encode, x / 0, sentence="must be finite")


def test_a_decoder_of_ones_own_does_not_lift_the_checks_of_pixels(grey):
    class Other(VAE):
        def px(self, z, y=None):
            return super().px(z)

    model = Other(SHAPE, hidden=[4])
    refused(model.encode, grey.float(), sentence="Divide them by 255")
    refused(model.log_weights, grey, 2, sentence="only defined for pixels 0 and 1")


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if hasattr(kind, "posterior")])
def test_posterior_checks_types_and_shapes_but_not_values(build, grey, name):
    model = build(name)
    y = model.condition_args(torch.tensor([0, 1, 2]))
    refused(model.posterior, grey, *y, sentence="needs a tensor of floats")
    refused(model.posterior, grey.numpy(), *y, sentence="needs a tensor of floats")
    refused(model.posterior, grey.float()[0], *y, sentence="must have shape")


@EVERY
def test_an_empty_batch_has_empty_results(build, name):
    model, x = build(name), torch.zeros(0, *SHAPE)
    y = model.condition_args(torch.zeros(0, dtype=torch.long))
    calls = takes_images(model)
    for method in calls.keys() - {"latent_statistics", "interpolate"}:
        assert calls[method](x, *y).shape[0] == 0
    if "interpolate" in calls:
        assert calls["interpolate"](x, *y).shape == (3, 0, *SHAPE)


# Counts


@EVERY
@pytest.mark.parametrize("n", [0, -1, 2.5, 2.0, True, "3", None, torch.tensor([1, 2])])
def test_counts_must_be_positive_integers(build, name, n):
    model = build(name)
    y = model.condition_args(torch.tensor([0, 1]))
    x = torch.ones(2, *SHAPE)
    calls = {
        "sample": lambda: model.sample(n),
        "sample_classes": lambda: model.sample_classes(n),
        "log_weights": lambda: model.log_weights(x, n, *y),
        "rate_distortion": lambda: model.rate_distortion(x, n, *y),
        "interpolate": lambda: model.interpolate(x, x, n, "linear", *y, *y),
    }
    for method, call in calls.items():
        if hasattr(model, method):
            refused(call, sentence="must be an integer of at least 1")


def test_counts_may_be_numpy_integers(build):
    assert build("VAE").sample(np.int64(2)).shape == (2, *SHAPE)


# Latents


@EVERY
def test_latents_of_a_wrong_dimension_are_refused(build, name):
    model = build(name)
    if not hasattr(model, "decode"):
        pytest.skip("decodes no latents of one kind")
    d, y = model.latent_dim, () if name not in LABELLED else (torch.tensor([0, 1]),)
    z = torch.randn(2, d)
    expected = model.decode(z, *y)
    assert expected.shape == (2, *SHAPE)
    assert torch.equal(model.decode(z.numpy(), *y), expected)
    assert torch.equal(model.decode(z.double(), *y), expected)
    assert model.decode(torch.zeros(2, d, dtype=torch.long), *y).shape == (2, *SHAPE)
    for wrong in (z[:, 1:], torch.randn(2, d + 1), torch.tensor(0.0), torch.randn(d, d + 1)):
        refused(model.decode, wrong, *y, sentence=rf"must have shape \(\.\.\., {d}\)")
    refused(model.decode, z > 0, *y, sentence="real numbers; got bool")
    refused(model.decode, z.tolist(), *y, sentence="a tensor or a NumPy array; got list")


def test_features_of_m1m2_have_the_kept_dimensions(build):
    model = build("M1M2")
    assert model.decode_features(torch.randn(2, 3)).shape == (2, *SHAPE)
    refused(model.decode_features, torch.randn(2, 4), sentence=r"\(\.\.\., 3\); got \(2, 4\)")
    refused(model.m2.classify, torch.randn(2, 4), sentence=r"Features .* \(B, 3\)")


@pytest.mark.parametrize("name", ["AE", "VAE", "CVAE"])
def test_interpolation_refuses_different_batch_sizes_and_unknown_paths(build, name):
    model, x = build(name), torch.rand(3, *SHAPE)
    y = model.condition_args(torch.tensor([0, 1, 2]))
    first = (part[:1] for part in y)
    refused(model.interpolate, x, x[:1], 3, "linear", *y, *first, sentence="got 3 and 1")
    refused(model.interpolate, x, x, 3, "curved", *y, *y, sentence="linear or spherical")


def test_invalid_directions_and_weights_are_refused(build):
    model, x = build("VAE"), torch.rand(3, *SHAPE)
    assert model.add_direction(x, np.ones(20), [0.0, 1.0]).shape == (2, 3, *SHAPE)
    refused(model.add_direction, x, torch.ones(3, 20), [1.0], sentence=r"shape \(20,\); got \(3, 20\)")
    refused(model.add_direction, x, torch.ones(19), [1.0], sentence=r"\(\.\.\., 20\)")
    refused(model.add_direction, x, torch.ones(20), [], sentence="at least one")


@pytest.mark.parametrize("size", [(0, 5), (-1, 5), (5, 5, 5), 5, (2.5, 4), "56", [None, 4], ()])
def test_sizes_must_be_two_positive_integers(build, size):
    model = build("AffineVAE")
    for call, given in ((model.render, torch.zeros(2, 10)), (model.canonical, torch.rand(2, *SHAPE))):
        refused(call, given, size, sentence="height and width, such as")
        assert call(given, [3, 5]).shape == (2, 2, 3, 5)


# Labels

NO_LABELS = {
    "fewer": (torch.tensor([1]), r"have shape \(2,\).*got \(1,\)"),
    "more": (torch.tensor([1, 0, 1]), r"have shape \(2,\).*got \(3,\)"),
    "one-hot": (torch.eye(3, dtype=torch.long)[:2], r"have shape \(2,\).*got \(2, 3\)"),
    "too large": (torch.tensor([0, 3]), "must be from 0 to 2; got labels from 0 to 3"),
    "unlabelled": (torch.tensor([0, -1]), "must be from 0 to 2; got labels from -1 to 0"),
    "floats": (torch.tensor([0.0, 1.0]), "integers from 0 to 2; got float32"),
    "booleans": (torch.tensor([False, True]), "integers from 0 to 2; got bool"),
    "text": (np.array(["a", "b"]), "must be numbers"),
    "a word": ("ab", "a tensor or a NumPy array; got str"),
    "ragged": ([[0], [1, 2]], "integers"),
}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("wrong", NO_LABELS)
def test_invalid_labels_are_refused(build, name, wrong):
    model, x, (y, sentence) = build(name), torch.ones(2, *SHAPE), NO_LABELS[wrong]
    names = {"CVAE": ("encode", "reconstruct", "latent_statistics"), "M1M2": ()}
    names = names.get(name, ("encode", "latent_statistics"))
    for call in takes_images(model, (*names, *LIKELIHOODS)).values():
        refused(call, x, y, sentence=sentence)
    if name == "CVAE":
        right = torch.tensor([0, 1])
        refused(model.sample, 2, y, sentence=sentence)
        for labels in ((right, y), (y, right)):
            refused(model.interpolate, x, x, 3, "linear", *labels, sentence=sentence)


@pytest.mark.parametrize("name", ["CVAE", "M2", "ADGM", "SDGM"])
def test_labels_may_be_lists_and_arrays_and_those_of_latents_broadcast(build, name):
    model, x, z = build(name), torch.rand(3, *SHAPE), torch.randn(3, build(name).latent_dim)
    y = torch.tensor([0, 2, 1])
    for form in (y.tolist(), tuple(y.tolist()), y.numpy(), y.numpy().astype(np.uint8), y.int()):
        assert torch.equal(model.encode(x, form), model.encode(x, y))
        assert torch.equal(model.decode(z, form), model.decode(z, y))
    for one in (1, [1], np.int64(1)):
        assert torch.equal(model.decode(z, one), model.decode(z, torch.tensor([1, 1, 1])))
    refused(model.decode, z, [0, 1], sentence=r"broadcast with shape \(3,\).*got \(2,\)")


def test_missing_labels_are_refused(build):
    x, z = torch.rand(2, *SHAPE), torch.zeros(2, 20)
    model = build("CVAE")
    for call, given in ((model.encode, x), (model.reconstruct, x), (model.decode, z), (model.latent_statistics, x)):
        refused(call, given, sentence="CVAE needs the labels y")
    refused(model.interpolate, x, x, sentence="CVAE needs the labels y")
    refused(build("M2").decode, torch.zeros(2, 4), None, sentence="needs labels y, integers from 0 to 2")


# Training does not check values


@EVERY
def test_training_and_validation_do_not_check_values(fit, make, binary, monkeypatch, name):
    def looked(*args):
        raise AssertionError("a check of values in training")

    monkeypatch.setattr("models.arguments.as_images", looked)
    monkeypatch.setattr("models.arguments.as_features", looked)
    monkeypatch.setattr("models.arguments.check_binary", looked)
    monkeypatch.setattr("models.m2.as_features", looked)
    for module in ("cvae", "m2", "m1m2"):
        monkeypatch.setattr(f"models.{module}.as_labels", looked)
    options = {"label_weight": 1.0} if name == "AffineVAE" else {}
    assert fit(make(name, **options), [binary(8)]).callback_metrics["train/loss"].isfinite()
