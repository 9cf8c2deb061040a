import hashlib

import torch
from sklearn.datasets import load_digits

from datamodules import DATAMODULES, PROTOCOLS, Batches, Split


def ready(**options):
    data = DATAMODULES["Digits"](**options)
    data.setup()
    return data


def test_splits_and_batches():
    assert PROTOCOLS == ("dynamic", "fixed", "threshold", "grey", "levels", "larochelle")
    data = ready()
    assert isinstance(data.train, Split)
    assert isinstance(data.train_dataloader(), Batches)


def test_sizes():
    data = ready()
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [1297, 250, 250]
    assert data.image_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert len(ready(val_size=47).train.y) == 1500


def test_intensities_are_rescaled():
    data = DATAMODULES["Digits"]()
    train, test = data.fetch()
    x = torch.cat([train.x, test.x])
    assert x.unique().tolist() == [round(value * 255 / 16) for value in range(17)]
    published = (torch.from_numpy(load_digits().data) * 255 / 16).round()
    assert torch.equal(x.flatten().bincount(), published.long().flatten().bincount())


def test_the_test_images_are_the_same_for_every_seed_and_machine():
    one, other = ready(), ready(seed=1)
    assert torch.equal(one.test.x, other.test.x)
    assert torch.equal(one.test.y, other.test.y)
    assert not torch.equal(one.val.y, other.val.y)
    assert hashlib.sha256(one.test.y.numpy().tobytes()).hexdigest()[:12] == "fb1150c4ef5f"


def test_labels_belong_to_their_images():
    images, labels = load_digits(return_X_y=True)
    known = {
        (image * 255 / 16).round().astype("uint8").tobytes(): label for image, label in zip(images, labels, strict=True)
    }
    train, test = DATAMODULES["Digits"]().fetch()
    for x, y in zip(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), strict=True):
        assert known[x.numpy().tobytes()] == y
