import hashlib

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from datamodules import DATAMODULES, PROTOCOLS, Split
from datamodules.grayscale import GrayscaleData


class Patches(GrayscaleData):
    """600 training and 90 test images of random grey values; classes in turn. Image i has the mark i."""

    size, tests, shape, classes = 600, 90, (1, 5, 6), 3

    def fetch(self):
        self.fetched = getattr(self, "fetched", 0) + 1
        generator = torch.Generator().manual_seed(1)
        splits = []
        for size in (self.size, self.tests):
            x = torch.randint(0, 256, (size, *self.shape), dtype=torch.uint8, generator=generator)
            x[0], x[1] = 0, 255
            splits.append(Split(x, torch.arange(size) % self.classes))
        return splits


def ready(cls=Patches, **options):
    data = cls(**options)
    data.setup()
    return data


def positions(split, among):
    """Where the grey images of `split` are in the array `among`."""
    index = {image.numpy().tobytes(): i for i, image in enumerate(among)}
    return [index[image.numpy().tobytes()] for image in split.x]


def test_every_training_image_is_in_one_split():
    data = ready(val_size=100, binarization="dynamic")
    x = data.fetch()[0].x
    train = positions(data.train, x)
    assert len(set(train)) == len(train) == 500
    assert len(data.val.y) == 100
    val = torch.tensor(sorted(set(range(600)) - set(train)))
    assert torch.equal(data.val.y.bincount(), (val % 3).bincount())
    assert torch.equal(data.train.y, torch.tensor(train) % 3)


def test_the_split_is_a_function_of_the_seed():
    same, again, other = (positions(ready(seed=seed).train, Patches().fetch()[0].x) for seed in (0, 0, 1))
    assert same == again != other
    assert hashlib.sha256(np.array(same, "<i8").tobytes()).hexdigest()[:12] == "43f51cb05b65"


def test_setup_fetches_once():
    data = ready()
    train = data.train
    data.setup("fit")
    assert data.fetched == 1
    assert data.train is train


def test_attributes_after_setup():
    data = ready(binarization="threshold")
    assert data.image_shape == (1, 5, 6)
    assert data.num_classes == 3
    assert data.labels_hash is None
    assert len(data.val.y) == 60, "a tenth by default"
    assert data.label_indices.tolist() == sorted(data.label_indices.tolist())
    assert len(data.label_indices) == 540


@pytest.mark.parametrize("binarization", ["dynamic", "fixed", "threshold", "grey"])
def test_protocols(binarization):
    data = Patches(binarization=binarization)
    assert data.protocol == binarization
    assert data.protocol in PROTOCOLS
    data.setup()
    for name, batches in {"val": data.val_dataloader(), "test": data.test_dataloader()}.items():
        x = torch.cat([x for x, _ in batches])
        assert torch.equal(x, torch.cat([x for x, _ in batches])), f"{name} was redrawn"
        assert torch.equal(x, data.images(name)[0])
        assert x.unique().tolist() == [0, 1] if binarization != "grey" else 0 <= x.min() < x.max() < 1
    x = torch.cat([x for x, _ in data.train_dataloader()])
    assert x.unique().tolist() == [0, 1] if binarization != "grey" else 0 <= x.min() < x.max() < 1


@pytest.mark.parametrize(("binarization", "redrawn"), [("dynamic", 1), ("fixed", 0), ("threshold", 0), ("grey", 1)])
def test_which_protocols_resample_training_pixels(binarization, redrawn):
    data = ready(binarization=binarization)
    batches = data.train_dataloader()

    def epoch(number):
        batches.set_epoch(number)
        return sorted(image.numpy().tobytes() for x, _ in batches for image in x)

    assert (epoch(0) != epoch(1)) == redrawn
    assert epoch(0) == epoch(0)


def test_pixels_of_0_and_255_are_deterministic():
    for name in ("dynamic", "fixed", "threshold"):
        x = ready(binarization=name).images("test")[0]
        assert x[0].max() == 0
        assert x[1].min() == 1


def test_threshold_is_at_128():
    grey, binary = (ready(binarization=name) for name in ("dynamic", "threshold"))
    assert torch.equal(binary.train.x, (grey.train.x >= 128) * 255)
    assert torch.equal(binary.test.x, (grey.fetch()[1].x >= 128) * 255)


def test_fixed_draws_are_bernoulli():
    data = ready(binarization="fixed", seed=5)
    p = data.fetch()[1].x.double() / 255
    z = (data.test.x.double() / 255 - p).sum() / (p * (1 - p)).sum().sqrt()
    assert 0 < abs(z) < 5


@pytest.mark.parametrize("binarization", ["dynamic", "grey"])
def test_evaluation_pixels_do_not_depend_on_the_seed(binarization):
    one, other = (ready(binarization=binarization, seed=seed, val_size=300) for seed in (0, 1))
    assert torch.equal(one.test.x, other.test.x)
    draws = []
    for data in (one, other):
        order = torch.randperm(600, generator=torch.Generator().manual_seed(data.seed))[:300]
        draws.append(dict(zip(order.tolist(), data.val.x, strict=True)))
    shared = draws[0].keys() & draws[1].keys()
    assert len(shared) > 100
    assert draws[0].keys() != draws[1].keys()
    assert all(torch.equal(draws[0][i], draws[1][i]) for i in shared)


def test_evaluation_pixels_are_the_same_on_every_machine():
    digest = hashlib.sha256(ready().test.x.numpy().tobytes()).hexdigest()[:12]
    assert digest == "10ae4cd1e321"


@pytest.mark.parametrize("binarization", ["dynamic", "fixed", "threshold", "grey"])
def test_images_of_the_training_split_are_sampled_once(binarization):
    data = ready(binarization=binarization)
    x, y = data.images("train", 10)
    assert torch.equal(x, data.images("train", 10)[0])
    assert torch.equal(x[:4], data.images("train", 4)[0])
    assert x.dtype == torch.float32
    assert x.shape == (10, 1, 5, 6)
    assert torch.equal(y, data.train.y[:10])
    assert x.unique().tolist() == [0, 1] if binarization != "grey" else 0 <= x.min() < x.max() < 1


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r'^There is no split "valid"; use "train", "val" or "test"\.$'):
        ready().images("valid")


def test_the_mean_image():
    data = ready()
    mean = data.train_mean()
    assert mean.shape == (1, 5, 6)
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, data.train.x.double().mean(0).float() / 255)


def test_the_run_seed_changes_only_order_and_pixel_sampling():
    one, other = ready(), ready()
    other.run_seed = 1
    first = [next(iter(data.train_dataloader())) for data in (one, one, other)]
    assert torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], first[2][0])
    assert torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.val.x, other.val.x)


@pytest.mark.parametrize("num_labels", [3, 30, 300])
def test_hidden_labels_are_balanced_and_not_stored(num_labels):
    data = ready(num_labels=num_labels)
    assert data.train.y[data.train.y >= 0].bincount().tolist() == [num_labels // 3] * 3
    assert (data.train.y == -1).sum() == 540 - num_labels
    assert data.val.y.min() == data.test.y.min() == 0
    assert data.num_classes == 3
    batches = torch.cat([y for _, y in data.train_dataloader()])
    assert (batches == -1).sum() == 540 - num_labels
    longest = [v for v in vars(data).values() if isinstance(v, torch.Tensor) and len(v) > 300]
    assert not longest, "something of the hidden labels' size was kept"


def test_label_indices_are_the_labelled_images():
    data = ready(num_labels=30)
    index = data.label_indices
    assert index.tolist() == sorted(index.tolist())
    labelled = data.train.subset(data.train.y >= 0)
    x, y = data.fetch()[0]
    assert sorted(positions(labelled, x)) == index.tolist()
    assert torch.equal(y[index].bincount(), labelled.y.bincount())
    assert data.labels_hash == hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:12]


def test_the_choice_of_labels_is_a_function_of_the_seed():
    same, again, other = (ready(num_labels=30, seed=seed) for seed in (0, 0, 1))
    again.run_seed = 9
    assert same.labels_hash == again.labels_hash == "11ceed9cf302"
    assert other.labels_hash != same.labels_hash


def test_another_label_seed_keeps_the_split():
    usual, same, other = (ready(num_labels=30, seed=1, **more) for more in ({}, {"label_seed": 1}, {"label_seed": 2}))
    assert same.labels_hash == usual.labels_hash
    assert other.labels_hash != usual.labels_hash
    for data in (same, other):
        assert torch.equal(data.train.x, usual.train.x)
        assert torch.equal(data.val.x, usual.val.x)
        assert torch.equal(data.val.y, usual.val.y)
    assert torch.equal(same.train.y, usual.train.y)
    assert not torch.equal(other.train.y, usual.train.y)
    # the draw does not depend on the option that the seed comes from
    assert ready(num_labels=30, seed=0, label_seed=0).labels_hash == "11ceed9cf302"


@pytest.mark.parametrize("num_labels", [31, 543, 4])
def test_an_impossible_number_of_labels_is_refused(num_labels):
    message = r"^num_labels must be a multiple of the number of classes \(3\) and at most \d+, .*; got \d+\.$"
    with pytest.raises(ValueError, match=message):
        ready(num_labels=num_labels)


def test_the_largest_number_of_labels_is_accepted():
    with pytest.raises(ValueError, match="at most") as error:
        ready(num_labels=540 * 3)
    most = int(str(error.value).split("at most ")[1].split(",")[0])
    assert (ready(num_labels=most).train.y >= 0).sum() == most > 400
    with pytest.raises(ValueError, match=f"at most {most}"):
        ready(num_labels=most + 3)


class Unlabelled(Patches):
    def fetch(self):
        return [Split(x, torch.full_like(y, -1)) for x, y in super().fetch()]


def test_data_without_labels():
    data = ready(Unlabelled)
    assert data.num_classes == 0
    assert data.labels_hash is None
    assert len(data.label_indices) == 0
    with pytest.raises(ValueError, match=r"^num_labels cannot be used: the data have no labels\.$"):
        ready(Unlabelled, num_labels=10)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 0, r"^batch_size must be at least 1, not 0\.$"),
        ("val_size", 0, r"^val_size must be at least 1, not 0\.$"),
        ("num_labels", 0, r"^num_labels must be at least 1, not 0; leave it out to keep all\.$"),
        (
            "label_seed",
            0,
            r"^label_seed has no effect without num_labels: set num_labels, or leave label_seed out\.$",
        ),
        (
            "binarization",
            "otsu",
            r'^binarization must be one of dynamic, fixed, threshold, grey, levels, not "otsu"\.$',
        ),
    ],
)
def test_bad_options_are_refused_before_reading(option, value, message):
    with pytest.raises(ValueError, match=message):
        Patches(**{option: value})


def test_val_size_must_leave_a_training_image():
    assert len(ready(val_size=599).train.y) == 1
    with pytest.raises(ValueError, match=r"^val_size must be less than the 600 training images, not 600\.$"):
        ready(val_size=600)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train, test: (Split(train.x.float(), train.y), test), r"training images must be uint8"),
        (lambda train, test: (train, Split(test.x[:, 0], test.y)), r"test images must be uint8"),
        (lambda train, test: (train.subset(slice(0)), test), r"training images must be uint8"),
        (lambda train, test: (train, Split(test.x, test.y[1:])), r"there are 90 test images but 89 labels"),
        (lambda train, test: (train, Split(test.x, test.y - 2)), r"test labels must be 0, 1, .* not -2"),
        (
            lambda train, test: (train, Split(test.x[..., 1:], test.y)),
            r"must have the same shape, not .*5, 6.* and .*5, 5",
        ),
    ],
)
def test_invalid_data_are_refused(change, message):
    class Unfit(Patches):
        def fetch(self):
            return change(*super().fetch())

    with pytest.raises(ValueError, match=f"^Unfit: .*{message}"):
        ready(Unfit)


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs = []

    def training_step(self, batch):
        self.epochs.append((self.current_epoch, batch))
        return self.weight * batch[0].mean()

    def validation_step(self, batch):
        assert not batch[0].requires_grad

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_two_epochs_and_its_checkpoint(tmp_path):
    data, model = DATAMODULES["Digits"](batch_size=500, num_labels=50, seed=4), Tiny()
    data.run_seed = 7
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    fresh = ready(DATAMODULES["Digits"], batch_size=500, num_labels=50, seed=4)
    fresh.run_seed = 7
    batches = fresh.train_dataloader()
    expected = [(epoch, batch) for epoch in (0, 1) for batch in list(batches)]
    assert [epoch for epoch, _ in model.epochs] == [epoch for epoch, _ in expected] == [0] * 3 + [1] * 3
    for (_, seen), (_, wanted) in zip(model.epochs, expected, strict=True):
        assert torch.equal(seen[0], wanted[0])
        assert torch.equal(seen[1], wanted[1])

    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert dict(stored) == {
        "batch_size": 500,
        "binarization": "dynamic",
        "num_labels": 50,
        "labels_per_batch": None,
        "val_size": 250,
        "seed": 4,
        "max_rotation": 0.0,
        "max_shift": 0.0,
        "max_scaling": 0.0,
        "label_seed": None,
    }


def test_ranks_share_the_images():
    class Rank:
        world_size = 3

        class strategy:
            root_device = torch.device("cpu")

        def __init__(self, rank):
            self.global_rank = rank

    data = ready(batch_size=7)
    seen = []
    for rank in range(3):
        data.trainer = Rank(rank)
        seen += [image.numpy().tobytes() for x, _ in data.test_dataloader() for image in x]
    assert sorted(seen) == sorted(image.numpy().tobytes() for image in data.images("test")[0])


def test_levels_are_the_stored_bytes():
    data = DATAMODULES["Digits"](binarization="levels")
    data.setup()
    train, test = data.fetch()
    assert torch.equal(data.test.x, test.x)
    assert data.train_pixel_sampler is None
    stored = {image.numpy().tobytes() for image in train.x}
    for split in ("train", "val"):
        assert {image.numpy().tobytes() for image in getattr(data, split).x} <= stored
        assert torch.equal(data.grey_pixels(split), getattr(data, split).x)
    x, _ = next(iter(data.train_batches(None, "cpu")))
    assert torch.equal(x * 255, (x * 255).round())
    assert torch.equal(data.images("test")[0], test.x.float() / 255)
