"""What every entry of `DATAMODULES` must do."""

import inspect

import pytest
import torch

from datamodules import DATAMODULES, PROTOCOLS, ImageData


def needs_files(kind):
    """Whether a data set needs a folder or a file, which these tests do not have."""
    return (
        any(
            option.default is option.empty and option.kind is not option.VAR_KEYWORD
            for option in inspect.signature(kind).parameters.values()
        )
        or "root" in inspect.signature(kind).parameters
    )


@pytest.mark.parametrize("name", DATAMODULES)
def test_the_name_is_that_of_the_class(name):
    assert issubclass(DATAMODULES[name], ImageData)
    assert DATAMODULES[name].__name__ == name


@pytest.mark.parametrize("name", DATAMODULES)
def test_it_has_a_limit_of_epochs(name):
    assert DATAMODULES[name].default_epochs >= 1


@pytest.mark.parametrize("name", [name for name, kind in DATAMODULES.items() if not needs_files(kind)])
def test_splits_protocol_and_batches(name):
    data, again = DATAMODULES[name](batch_size=7), DATAMODULES[name]()
    data.setup()
    again.setup()
    assert data.protocol in PROTOCOLS
    assert len(data.image_shape) == 3
    for split in ("train", "val", "test"):
        x, y = data.images(split)
        assert x.shape == (len(y), *data.image_shape)
        assert x.dtype == torch.float32
        assert ((x >= 0) & (x <= 1)).all()
        assert y.dtype == torch.int64
        assert ((y >= -1) & (y < max(data.num_classes, 1))).all()
        assert torch.equal(x, again.images(split)[0])
    x, y = next(iter(data.train_dataloader()))
    assert (x.shape, y.shape) == ((7, *data.image_shape), (7,))
    assert data.train_mean().shape == data.image_shape
    x = data.train.x.double() / 255
    assert data.train_deviation() == pytest.approx((x - x.mean(0)).square().mean().sqrt().item(), rel=1e-4)
