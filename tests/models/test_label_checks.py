"""models/label_checks.py: checks of the labels of the training data."""

import numpy as np
import pytest

from datamodules import DATAMODULES
from models import MODELS
from models.label_checks import MAX_CLASSES

LEARNING = {"CVAE": {}, "M2": {}, "ADGM": {}, "SDGM": {}, "AffineVAE": {"decoder_hidden": [4], "label_weight": 1.0}}


def data_with(tmp_path, y, y_test=None):
    """Return a data module of 100 images with these labels, and 20 test images with labels `y_test`."""
    x = np.random.default_rng(0).integers(0, 256, (120, 6, 6), np.uint8)
    arrays = {"x": x[:100], "y": y, "x_test": x[100:], "y_test": y[:20] if y_test is None else y_test}
    np.savez(tmp_path / "mine.npz", **arrays)
    data = DATAMODULES["NPZ"](str(tmp_path / "mine.npz"))
    data.setup()
    return data


def made(name, data):
    return MODELS[name].for_data(data, hidden=[4], **LEARNING.get(name, {}))


@pytest.mark.parametrize("name", LEARNING)
def test_classes_need_training_images(tmp_path, name):
    y = np.arange(100) % 3
    assert made(name, data_with(tmp_path, y + 1)).hparams.num_classes == 3
    with pytest.raises(
        ValueError, match=rf"^{name} .*needs labelled training images of every class, but class 7 has none"
    ):
        made(name, data_with(tmp_path, y, y_test=np.arange(20) % 3 + 5 * (np.arange(20) == 8)))
    with pytest.raises(ValueError, match=r"but classes 3, 4 have none: add images, remove the classes"):
        made(name, data_with(tmp_path, y, y_test=np.arange(20) % 5))


def test_m2_needs_labelled_images_of_every_class(tmp_path):
    y = np.where(np.arange(100) % 2, np.arange(100) % 3, -1)
    assert made("M2", data_with(tmp_path, y)).hparams.num_classes == 3
    with pytest.raises(ValueError, match="but class 4 has none"):
        made("M2", data_with(tmp_path, y, y_test=np.arange(20) % 5 // 4 * 4))


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("values", [100, 46])
def test_labels_with_too_many_values_are_refused(tmp_path, name, values):
    # 90 training images
    with pytest.raises(
        ValueError, match=f"cannot learn {values} classes from 90 training images: check that the labels"
    ):
        made(name, data_with(tmp_path, np.arange(100) % values * 10**7))


@pytest.mark.parametrize("name", LEARNING)
def test_too_many_classes_are_refused_before_networks_are_built(name):
    fraction = {"labelled_fraction": 1.0} if "labelled_fraction" in MODELS[name].data_args else {}
    options = {"hidden": [4], **LEARNING[name]} | fraction
    MODELS[name]((1, 6, 6), num_classes=MAX_CLASSES, **options)
    with pytest.raises(ValueError, match=f"^{name} .*takes at most {MAX_CLASSES} classes"):
        MODELS[name]((1, 6, 6), num_classes=10**9, **options)


@pytest.mark.parametrize("name", ["VAE", "IWAE", "AE"])
def test_other_models_take_any_labels(tmp_path, name):
    data = data_with(tmp_path, np.arange(100) * 10**7, y_test=np.arange(20) + 10**12)
    made(name, data)
    assert data.num_classes == 120


@pytest.mark.parametrize("name", LEARNING)
def test_a_test_set_of_other_classes_is_refused(tmp_path, name):
    """As in OMNIGLOT, where the alphabets of the test images never occur in training."""
    data = data_with(tmp_path, np.arange(100) % 10, y_test=np.arange(20) + 30)
    names = ", ".join(map(str, range(30, 50)))
    with pytest.raises(ValueError, match=rf"^{name} .*, but classes {names} have none: add images, remove the classes"):
        made(name, data)


@pytest.mark.parametrize("name", ["VAE", "IWAE", "HierarchicalVAE", "AffineVAE", "AE"])
def test_other_models_take_a_test_set_of_other_classes(tmp_path, name):
    data = data_with(tmp_path, np.arange(100) % 10, y_test=np.arange(20) + 30)
    assert MODELS[name].for_data(data)


@pytest.mark.parametrize(
    ("count", "names"), [(1, "class 30 has none: .* the class"), (2, "classes 30, 31 have none: .*")]
)
def test_num_labels_names_all_classes_without_training_images(tmp_path, count, names):
    data = data_with(tmp_path, np.arange(100) % 10, y_test=np.arange(20) % count + 30)
    data = DATAMODULES["NPZ"](data.source, num_labels=20)
    with pytest.raises(ValueError, match=f"^num_labels requires training images of every class, but {names} from the"):
        data.setup()
