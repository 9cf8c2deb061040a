"""Compare several models visually, on the same images."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import MultivariateNormal

import models
from callbacks.codes import MAX_POINTS, encode, in_plane
from datamodules import ImageData
from figures import charts, grids
from figures.subsets import evenly_spaced, round_robin_by_class
from models import Model, evaluating
from models.implicit import ImplicitModel
from runtime.figure_files import DEFAULT_STYLE, FigureStyle, save_figure
from runtime.run_folder import run_folder, run_name

MOST_BLOCKS = 3  # up to so many models, random images are drawn as one square block per model
ROW = 20  # points per model beyond that, one row each


def decodes_codes(model: Model | type[Model]) -> bool:
    """Return whether a model, or its class, decodes its codes without labels."""
    return all(model.can(method) for method in ("encode", "interpolate")) and not model.is_conditional


def samples_freely(model: Model | type[Model]) -> bool:
    """Return whether a model, or its class, samples images without labels."""
    return model.can("sample") and not model.is_conditional


def check_decodes(model: Model | type[Model]) -> None:
    """Raise ValueError if a model, or its class, cannot decode its codes without labels."""
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    if not decodes_codes(model):
        raise ValueError(f"{name} cannot be drawn side by side: it does not decode codes without labels.")


def check_comparable(model: Model | type[Model]) -> None:
    """Raise ValueError if a model, or its class, is no generator and cannot decode its codes without labels."""
    kind = model if isinstance(model, type) else type(model)
    if not issubclass(kind, ImplicitModel):
        check_decodes(model)


def check_images(models: Mapping[str, Model], x: Tensor) -> None:
    """Raise ValueError if there is no model, or one of them does not take the images `x`."""
    if not models:
        raise ValueError("There is no model to draw: give at least one.")
    for name, model in models.items():
        if (shape := tuple(model.hparams.image_shape)) != tuple(x.shape[1:]):
            raise ValueError(f"{name} takes images {shape}, and these are {tuple(x.shape[1:])}: choose others.")


def check_all(models: Mapping[str, Model], x: Tensor) -> None:
    """Raise ValueError if there is no model, or one of them cannot decode its codes or does not take the images `x`."""
    for model in models.values():
        check_decodes(model)
    check_images(models, x)


def codes(model: Model, x: Tensor) -> Tensor:
    """Return the codes `(N, d)` of images, which may be on another device than the model."""
    with evaluating(model):
        return encode(model, x.to(model.device), torch.full(x.shape[:1], -1))


def reconstructions_side_by_side(models: Mapping[str, Model], x: Tensor) -> Figure:
    """Draw images `(B, C, H, W)` and below them their reconstructions by each model; 2-D codes are captions."""
    check_all(models, x)
    rows, captions = [x.cpu()], [[""] * len(x)]
    for model in models.values():
        z = codes(model, x)
        with evaluating(model):
            rows.append(model.decode(z).cpu())
        captions.append([f"({a:z.1f}, {b:z.1f})" for a, b in z.tolist()] if z.shape[1] == 2 else [""] * len(x))
    return grids.image_grid(rows, row_labels=["input", *models], captions=captions)


def random_points(models: Mapping[str, Model], x: Tensor, n: int = 64) -> Figure:
    """Draw `n` decoded samples of each model, from a Gaussian with the mean and covariance of the codes of `x`.

    The Gaussian also serves models without a prior; for a VAE it is close to the prior.
    """
    check_all(models, x)
    count, images = images_per_model(models, n), {}
    for name, model in models.items():
        z = codes(model, x)
        with evaluating(model):
            images[name] = model.decode(like(z, count)).cpu()
    return random_images(images, "Random points")


def random_samples(models: Mapping[str, Model], x: Tensor, n: int = 64) -> Figure:
    """Draw `n` samples of each model from its prior, with as many of the images `x` before them."""
    check_images(models, x)
    count = images_per_model({"test images": None, **models}, n)
    images = {"test images": x[evenly_spaced(len(x), count)].cpu()}
    for name, model in models.items():
        with evaluating(model):
            images[name] = model.sample(count).cpu()
    return random_images(images, "Samples")


def images_per_model(models: Mapping[str, Any], n: int) -> int:
    """Return the number of random images of each model: `n`, or with many models a row."""
    return min(n, ROW) if len(models) > MOST_BLOCKS else n


def random_images(images: Mapping[str, Tensor], title: str) -> Figure:
    """Draw random images `(n, C, H, W)` of several models: square blocks beside each other.

    With more than `MOST_BLOCKS` models, each gets one row, so that the figure does not grow wider.
    """
    if len(images) > MOST_BLOCKS:
        return grids.image_grid(list(images.values()), row_labels=list(images), title=title)
    side = math.ceil(math.sqrt(max(map(len, images.values()))))
    blocks = [block.split(side) for block in images.values()]
    height = max(map(len, blocks))
    blank = next(iter(images.values()))[:0]
    padded = [[*block, *[blank] * (height - len(block))] for block in blocks]
    rows = [torch.cat([white(row, side) for row in parts]) for parts in zip(*padded, strict=True)]
    begins = [side * i for i in range(len(images))]
    return grids.image_grid(rows, title=dict(zip(begins, images, strict=True)), column_breaks=begins)


def like(z: Tensor, n: int) -> Tensor:
    """Sample `(n, d)` from the Gaussian with the mean and covariance of `z (N, d)`."""
    mean = z.double().mean(0)
    covariance = z.double().T.cov(correction=0).reshape(len(mean), len(mean))
    # Regularised, because an unused dimension has no variance.
    little = 1e-6 * covariance.diagonal().mean().clamp(min=1e-6) * torch.eye(len(mean), device=z.device)
    return MultivariateNormal(mean, covariance + little).sample((n,)).to(z.dtype)


def white(row: Tensor, length: int) -> Tensor:
    """Pad a row of images with white ones to a length."""
    return torch.cat([row, row.new_ones(length - len(row), *row.shape[1:])])


def planes(models: Mapping[str, Model], x: Tensor, y: Tensor) -> Figure:
    """Draw the codes of each model, coloured by labels `y (B,)`. More than two dimensions are projected by PCA."""
    check_all(models, x)
    panels = []
    for name, model in models.items():
        points, (xlabel, ylabel) = in_plane(codes(model, x))
        panels.append(charts.Panel(points, name, xlabel, ylabel))
    return charts.scatter(panels, y)


def draw(models: Mapping[str, Model], data: Any, device: torch.device | str = "cpu") -> dict[str, Figure]:
    """Return all figures by name, of test images of `data`. Models take part in the figures that they are able to."""
    for model in models.values():
        check_comparable(model)
    check_images(models, data.images("test", 1)[0])
    x, y = data.images("test", device=device)
    some, chosen = evenly_spaced(len(y), MAX_POINTS), round_robin_by_class(y, grids.PER_ROW)
    found = {}
    if decoding := {name: model for name, model in models.items() if decodes_codes(model)}:
        found["reconstructions"] = reconstructions_side_by_side(decoding, x[chosen])
        found["random_points"] = random_points(decoding, x[some])
        found["codes"] = planes(decoding, x[some], y[some])
    if sampling := {name: model for name, model in models.items() if samples_freely(model)}:
        found["samples"] = random_samples(sampling, x)
    return found


def check_same_images(opened: list[tuple[dict, ImageData]], folder: str) -> None:
    """Raise ValueError if checkpoints cannot be drawn side by side, or the folder is a file."""
    if len(opened) < 2:
        raise ValueError("--side_by_side needs at least two checkpoints.")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"--side_by_side {folder} is a file: name a folder.")
    first = opened[0][1]
    for checkpoint, data in opened:
        if not torch.equal(data.test.x, first.test.x):
            raise ValueError(
                f"--side_by_side needs models of the same test images: {type(data).__name__} {data.variant}, protocol "
                f"{data.protocol}, are others than {type(first).__name__} {first.variant}, protocol {first.protocol}."
            )
        check_comparable(models.MODELS[checkpoint["model"]])


def save_comparison(
    paths: list[str],
    opened: list[tuple[dict, ImageData]],
    folder: Path,
    device: str,
    style: FigureStyle = DEFAULT_STYLE,
) -> None:
    """Draw the models of several checkpoints side by side, on the same test images, into `folder`."""
    short = [run_folder(Path(path)).name for path in paths]
    names = short if len(set(short)) == len(short) else [run_name(path) for path in paths]
    several = {
        f"{name} ({checkpoint['model']})": models.from_checkpoint(checkpoint).to(device)
        for name, (checkpoint, _) in zip(names, opened, strict=True)
    }
    for name, figure in draw(several, opened[0][1], device).items():
        save_figure(figure, folder / f"{name}.{style.format}", style.dpi)
    print(f"Figures side by side: {folder}")
