"""What a model that learns classes asks of the labels."""

MOST_CLASSES = 1000  # beyond it labels are identifiers or measurements, and networks become too large


def check_number(model: str, num_classes: int) -> None:
    """Raise ValueError if there are too many classes for networks that are given the class one-hot."""
    if num_classes > MOST_CLASSES:
        raise ValueError(
            f"{model} takes at most {MOST_CLASSES} classes, and the labels of these data have {num_classes} different "
            "values: check that they are classes, or use --model VAE."
        )


def check_training_images(model: str, data) -> None:
    """Raise ValueError if classes have no training image, or if there are about as many classes as images.

    Args:
        model: The model's name, for messages.
        data: The data module, set up.
    """
    images = len(data.train.y)
    if data.num_classes > images / 2:
        raise ValueError(
            f"{model} cannot learn {data.num_classes} classes from {images} training images: check that the labels are "
            "classes, or use --model VAE."
        )
    if missing := data.classes_without_training_images:
        some = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        which = f"class {some} has none" if len(missing) == 1 else f"classes {some} have none"
        raise ValueError(
            f"{model} needs labelled training images of every class, and {which}: add some, leave the "
            f"{'class' if len(missing) == 1 else 'classes'} out of the data, or use --model VAE."
        )
