import math

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import InterpolationMode, affine

from cli import train_options
from datamodules import DATAMODULES, Split
from datamodules.base import fixed_generator
from datamodules.grayscale import GrayscaleData
from datamodules.transforms import CHUNK, PoseLimits, apply_pose, draw_poses

ALL = {"max_rotation": 20.0, "max_shift": 2.0, "max_scaling": 0.1}
LIMITS = PoseLimits(20.0, 2.0, 0.1)
binarizations = pytest.mark.parametrize("binarization", ["dynamic", "fixed", "threshold", "grey"])


class Blobs(GrayscaleData):
    """40 training and 30 test images of 9x12 pixels: a few bright rectangles, no two alike."""

    size, tests, shape = 40, 30, (1, 9, 12)

    def fetch(self):
        generator = torch.Generator().manual_seed(1)
        splits = []
        for size in (self.size, self.tests):
            x = torch.zeros(size, *self.shape, dtype=torch.uint8)
            x[:, :, 3:6, 4:8] = torch.randint(100, 256, (size, self.shape[0], 3, 4), generator=generator).byte()
            splits.append(Split(x, torch.arange(size) % 3))
        return splits


class Colours(Blobs):
    shape = (3, 10, 9)


def ready(cls=Blobs, **options):
    data = cls(**options)
    data.setup()
    return data


def poses_of(name, n, limits=LIMITS):
    return draw_poses(n, limits, fixed_generator(f"poses of {name}"))


def by_torchvision(x, poses):
    """Each image by itself, moved by torchvision."""
    return torch.stack(
        [
            affine(image, angle, [right, down], factor, shear=[0.0], interpolation=InterpolationMode.BILINEAR)
            for image, (angle, right, down, factor) in zip(x, poses.tolist(), strict=True)
        ]
    )


def grey_levels(a, b):
    return (a.int() - b.int()).abs()


# Moving


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 20, 31), (2, 7, 4), (1, 1, 1)])
@pytest.mark.parametrize(
    "limits", [LIMITS, PoseLimits(180, 0, 0), PoseLimits(0, 6.5, 0), PoseLimits(0, 0, 0.9), PoseLimits(90, 3, 0.5)]
)
def test_apply_pose_equals_torchvision_affine(shape, limits):
    x = torch.randint(0, 256, (20, *shape), dtype=torch.uint8)
    poses = draw_poses(20, limits, torch.Generator().manual_seed(3))
    moved = apply_pose(x, poses)
    assert moved.dtype == torch.uint8
    expected = by_torchvision(x, poses)
    assert grey_levels(moved, expected).max() <= 1  # rounded from numbers that differ in the last digits
    assert grey_levels(moved, expected).double().mean() < 0.01
    if math.prod(shape) > 1:
        assert grey_levels(moved, x).max() > 100  # the control


@pytest.mark.parametrize(("pose", "row", "column"), [
    ((0, 0, 0, 1), 2, 5),
    ((90, 0, 0, 1), 5, 4),  # clockwise: from the upper right to the lower right
    ((180, 0, 0, 1), 4, 1),
    ((0, 1, 0, 1), 2, 6),  # to the right
    ((0, 0, 1, 1), 3, 5),  # down
    ((90, -2, 1, 1), 6, 2),  # turned first
])  # fmt: skip
def test_direction_of_rotation_and_shift(pose, row, column):
    x = torch.zeros(1, 1, 7, 7, dtype=torch.uint8)
    x[0, 0, 2, 5] = 255
    moved = apply_pose(x, torch.tensor([pose], dtype=torch.float64))
    assert moved[0, 0].nonzero().tolist() == [[row, column]]


def test_more_images_than_one_chunk():
    n = CHUNK + 7
    x = torch.randint(0, 256, (n, 1, 3, 4), dtype=torch.uint8)
    poses = draw_poses(n, LIMITS, torch.Generator().manual_seed(3))
    moved = apply_pose(x, poses)
    assert moved.shape == x.shape
    for part in (slice(0, 9), slice(CHUNK - 3, CHUNK + 3), slice(n - 3, n)):
        assert torch.equal(moved[part], apply_pose(x[part], poses[part]))


# Poses


@pytest.mark.parametrize("limits", [LIMITS, PoseLimits(180, 0, 0.5), PoseLimits(0, 3, 0)])
def test_poses_are_uniform_within_the_limits(limits):
    n = 20_000
    poses = draw_poses(n, limits, torch.Generator().manual_seed(3))
    assert poses.shape == (n, 4)
    for values, limit in zip((poses - torch.tensor([0, 0, 0, 1])).T, (limits[0], limits[1], *limits[1:]), strict=True):
        assert values.abs().max() <= limit * (1 + 1e-6)
        assert values.mean().abs() <= 4 * limit / math.sqrt(3 * n)
        assert values.square().mean().item() == pytest.approx(limit**2 / 3, rel=0.05)
        if limit:
            assert values.min() < -0.99 * limit
            assert values.max() > 0.99 * limit
    parts = poses[:, [i for i in range(4) if poses[:, i].std() > 0]]
    correlation = parts.T.corrcoef() if parts.shape[1] > 1 else torch.ones(1, 1)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.05


@binarizations
def test_poses_do_not_depend_on_seeds(binarization):
    one, other = (ready(binarization=binarization, seed=seed, val_size=20, **ALL) for seed in (0, 1))
    other.run_seed = 5
    assert torch.equal(one.test.x, other.test.x)
    # an image is moved in one way, whichever split it is in
    images = []
    for data in (one, other):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(data.seed))
        images.append(dict(zip(order[:20].tolist(), data.val.x, strict=True)))
    shared = images[0].keys() & images[1].keys()
    assert 3 < len(shared) < 20
    assert all(torch.equal(images[0][i], images[1][i]) for i in shared)


def test_training_and_test_images_have_different_poses():
    training, test, again = (poses_of(name, 30) for name in ("training images", "test images", "test images"))
    assert torch.equal(test, again)
    assert (training - test).abs().amax(1).min() > 0
    data = ready(binarization="dynamic", val_size=1, seed=2, **ALL)
    train, held = data.fetch()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    # dynamic training images stay grey: they are drawn at each access, from the moved image
    assert grey_levels(data.train.x, by_torchvision(train.x, poses_of("training images", 40))[order[1:]]).max() <= 1
    assert grey_levels(data.train.x, by_torchvision(train.x, poses_of("test images", 40))[order[1:]]).max() > 50
    threshold = ready(binarization="threshold", **ALL).test.x
    expected = by_torchvision(held.x, poses_of("test images", 30))
    sure = grey_levels(expected, torch.tensor(128)) > 1
    assert torch.equal(threshold[sure], ((expected >= 128) * 255).byte()[sure])


# In the data


@binarizations
def test_limits_of_zero_change_nothing(binarization):
    plain, zero = ready(binarization=binarization), ready(binarization=binarization, max_rotation=0.0, max_shift=0)
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(plain, split).x, getattr(zero, split).x)
    if binarization == "threshold":
        assert torch.equal(zero.test.x, ((zero.fetch()[1].x >= 128) * 255).byte())
    x = plain.fetch()[0].x
    moved, poses = plain._transform(x, PoseLimits(), "training images")
    assert torch.equal(moved, x)
    assert poses.unique(dim=0).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(("option", "part"), [("max_rotation", 0), ("max_shift", 1), ("max_scaling", 3)])
def test_each_option_applies_only_its_transformation(option, part):
    plain, moved = ready(), ready(**{option: ALL[option]})
    assert not torch.equal(plain.train.x, moved.train.x)
    assert not torch.equal(plain.test.x, moved.test.x)
    _, poses = moved.transformed_test_images(moved.limits)
    changed = (poses != torch.tensor([0, 0, 0, 1])).any(0).tolist()
    assert changed == [i == part or (part == 1 and i == 2) for i in range(4)]


def test_images_are_binarized_after_the_transformation():
    data = ready(binarization="fixed", **ALL)
    for x in (data.train.x, data.val.x, data.test.x):
        assert set(x.unique().tolist()) == {0, 255}  # bilinear weights of a binary image would show
    batches = torch.cat([x for x, _ in ready(binarization="dynamic", **ALL).train_dataloader()])
    assert batches.unique().tolist() == [0, 1]
    # the draw of a pixel is that of the moved grey value
    expected = by_torchvision(data.fetch()[1].x, poses_of("test images", 30))
    assert not data.test.x[expected == 0].float().mean() > 0.01
    p = expected.double() / 255
    z = (data.test.x.double() / 255 - p).sum() / (p * (1 - p)).sum().sqrt()
    assert abs(z) < 5


def test_labels_stay_with_their_images():
    plain, moved = ready(num_labels=9, val_size=10), ready(num_labels=9, val_size=10, **ALL)
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(plain, split).y, getattr(moved, split).y)
    assert plain.labels_hash == moved.labels_hash


# Test images with known poses


@binarizations
def test_transformed_test_images_with_the_data_limits_are_the_test_images(binarization):
    data = ready(binarization=binarization, **ALL)
    x, poses = data.transformed_test_images(data.limits)
    assert torch.equal(x, data.images("test")[0])
    assert x.dtype == torch.float32
    assert torch.equal(poses, poses_of("test images", 30))
    plain = ready(binarization=binarization)
    assert torch.equal(plain.transformed_test_images(PoseLimits())[0], plain.images("test")[0])
    assert torch.equal(
        plain.transformed_test_images(PoseLimits(), "again")[0], plain.images("test")[0]
    )  # a draw of poses alone
    assert torch.equal(plain.transformed_test_images(LIMITS)[0], x)  # whether or not the data themselves are moved


def test_another_draw_gives_other_poses_of_the_same_images():
    data = ready(binarization="threshold", **ALL)
    (x, poses), (other, other_poses) = (
        data.transformed_test_images(LIMITS),
        data.transformed_test_images(LIMITS, "again"),
    )
    assert torch.equal(other_poses, poses_of("again", 30))
    assert (poses - other_poses).abs().amax(1).min() > 0
    assert (x != other).flatten(1).any(1).double().mean() > 0.9
    expected = by_torchvision(data.fetch()[1].x, other_poses)
    sure = grey_levels(expected, torch.tensor(128)) > 1
    assert torch.equal(other[sure], (expected >= 128).float()[sure])
    assert torch.equal(data.transformed_test_images(LIMITS, "again")[0], other)


# Words and refusals


@pytest.mark.parametrize(("limits", "words"), [
    ({}, ""),
    ({"max_rotation": 20.0}, "rotated by up to 20 degrees"),
    ({"max_shift": 2.5}, "shifted by up to 2.5 pixels"),
    ({"max_scaling": 0.1}, "scaled by 0.9 to 1.1"),
    (ALL, "rotated by up to 20 degrees, shifted by up to 2 pixels, scaled by 0.9 to 1.1"),
])  # fmt: skip
def test_description_of_the_variant(limits, words):
    assert Blobs(**limits).variant == words


def test_published_binary_images_have_no_variant():
    assert DATAMODULES["BinaryMNIST"]("data").variant == ""


@pytest.mark.parametrize(("option", "value"), [
    ("max_rotation", -1.0), ("max_rotation", 180.5), ("max_rotation", math.nan), ("max_rotation", math.inf),
    ("max_shift", -0.1), ("max_shift", math.nan), ("max_shift", math.inf),
    ("max_scaling", -0.1), ("max_scaling", 1.0), ("max_scaling", math.nan), ("max_scaling", math.inf),
])  # fmt: skip
def test_limits_out_of_range_are_refused(option, value):
    message = (
        r"^max_rotation must be between 0 and 180, max_shift finite and at least 0, max_scaling at least 0 and below 1"
        rf"; got .*{value}.*\.$"
    )
    with pytest.raises(ValueError, match=message):
        Blobs(**{option: value})


def test_the_largest_limits():
    data = ready(max_rotation=180, max_shift=100, max_scaling=0.99)
    assert data.variant == "rotated by up to 180 degrees, shifted by up to 100 pixels, scaled by 0.01 to 1.99"


# Every data module of grey images


@pytest.mark.parametrize("name", ["Digits", "MNIST", "FashionMNIST", "KMNIST", "NPZ"])
def test_the_options_appear_in_the_help(name):
    parser = train_options.build_parser(train_options.split_component_flags(["--model=VAE", f"--data={name}"])[0])
    text = " ".join(parser.format_help().split())
    for option in ALL:
        assert f"--data.{option}" in text
    assert "Rotate each image by a random angle" in text


def test_digits_are_transformed():
    data = ready(DATAMODULES["Digits"], binarization="threshold", max_rotation=30.0)
    expected = by_torchvision(data.fetch()[1].x, poses_of("test images", 250, PoseLimits(rotation=30.0)))
    sure = grey_levels(expected, torch.tensor(128)) > 1
    assert sure.double().mean() > 0.9
    assert torch.equal(data.test.x[sure], ((expected >= 128) * 255).byte()[sure])


def test_all_channels_are_transformed_alike():
    data = ready(Colours, binarization="threshold", **ALL)
    expected = by_torchvision(data.fetch()[1].x, poses_of("test images", 30))
    sure = grey_levels(expected, torch.tensor(128)) > 1
    assert torch.equal(data.test.x[sure], ((expected >= 128) * 255).byte()[sure])


def test_transformed_images_that_are_not_square(tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (40, 6, 11), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x=x, x_test=x[:9])
    data = ready(lambda **options: DATAMODULES["NPZ"](str(tmp_path / "mine.npz"), **options), max_shift=3.0)
    moved, poses = data.transformed_test_images(data.limits)
    assert moved.shape == (9, 1, 6, 11)
    assert data.variant == "shifted by up to 3 pixels"
    expected = by_torchvision(torch.from_numpy(x[:9])[:, None], poses)
    assert not moved[expected == 0].any()  # what came from outside is black
    assert (expected == 0).double().mean() > 0.05


def test_three_images_are_enough(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.full((3, 2, 5), 255, np.uint8))
    data = ready(lambda **options: DATAMODULES["NPZ"](str(tmp_path / "mine.npz"), **options), **ALL)
    assert len(data.train.x) == len(data.val.x) == len(data.test.x) == 1
