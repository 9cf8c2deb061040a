"""Checks of the labels that models of classes (CVAE, M2, M1M2, ADGM, SDGM) are trained on."""

MAX_NAMES = 20  # classes that a message names
MAX_CLASSES = 1000  # more values are identifiers or measurements, and one-hot inputs become too large


def check_number(model: str, num_classes: int) -> None:
    """Raise ValueError if there are too many classes for one-hot inputs."""
    if num_classes > MAX_CLASSES:
        raise ValueError(
            f"{model} takes at most {MAX_CLASSES} classes, but the labels have {num_classes} different values: check "
            "that the labels are classes, or use --model VAE."
        )


def check_training_images(model: str, data) -> None:
    """Raise ValueError if a class has no labelled training image, or if there are fewer than two images per class.

    Args:
        model: Name of the model, for messages.
        data: The data module after `setup`.
    """
    images = len(data.train.y)
    if data.num_classes > images / 2:
        raise ValueError(
            f"{model} cannot learn {data.num_classes} classes from {images} training images: check that the labels are "
            "classes, or use --model VAE."
        )
    if missing := data.classes_without_training_images:
        some = ", ".join(missing[:MAX_NAMES]) + (", ..." if len(missing) > MAX_NAMES else "")
        which = f"class {some} has none" if len(missing) == 1 else f"classes {some} have none"
        raise ValueError(
            f"{model} needs labelled training images of every class, but {which}: add images, remove the "
            f"{'class' if len(missing) == 1 else 'classes'} from the data, or use --model VAE."
        )
