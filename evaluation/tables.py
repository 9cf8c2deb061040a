"""Lay out results as text tables, one for each kind of result, with remarks about their numbers."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cli.terminal import FILE, Screen, lay_out, number, wrapped
from datamodules import DATAMODULES, GREY_PROTOCOLS
from evaluation.schema import ComparedEvaluation, Evaluation
from models import MODELS
from models.estimators.observation_scale import VARIANCES
from models.implicit import COLLAPSED_SHARE
from runtime.hparams import DEFAULT_PARTS
from runtime.run_folder import run_name

MIN_IMAGES = 50  # below this, the images may by chance be harder than average
# Optimizer steps. In shorter training, a high rate and nearly identical samples are normal.
SHORT_TRAINING = 1000
MAX_LAYERS = 6  # layers of latents whose numbers fit into one cell
FAR_ABOVE = 10  # a healthy model starts at less than this many times the NLL of the mean image
HIGH_K_HAT_SHARE = 0.1  # share of images with a high k-hat above which a remark is printed
SAMPLE_CRITERION = "MMD^2"  # criterion of generators, between their samples and test images
MISSING_CLASS = 0.1  # share of a class in the samples over the mean share, below which the class is missing


def plus_minus(mean: float, se: float | None, form: str) -> str:
    """Format a mean and, if there is one, its standard error. A plus sign in `form` applies to the mean only."""
    return number(mean, form) + (f" ± {number(se, form.lstrip('+'))}" if se is not None else "")


def formatted(value: float | None, form: str) -> str | None:
    """Format a value; None stays None."""
    return None if value is None else format(value, form)


def estimate(mean: float | None, se: float | None, form: str) -> str | None:
    """Format a mean with its standard error; None stays None."""
    return None if mean is None else plus_minus(mean, se, form)


def nll(row: Evaluation) -> str | None:
    """Return the cell of the NLL: None for a model without importance weights, "not finite" if its NLL is null."""
    if row.quantity is None or row.num_samples is None:
        return None
    return "not finite" if row.nll is None else plus_minus(row.nll, row.nll_se, ".2f")


def bits_per_dim(row: Evaluation) -> str | None:
    """Return the cell of the NLL in bits per dimension, which only grey images have."""
    return estimate(row.bits_per_dim, row.bits_per_dim_se, ".3f")


def difference_to_first(row: Evaluation) -> str | None:
    """Return the cell of the difference to the first run."""
    difference = row.versus_first if isinstance(row, ComparedEvaluation) else None
    return None if difference is None else plus_minus(difference.nll, difference.se, "+z.2f")


def ais_nll(row: Evaluation) -> str | None:
    """Return the cell of the NLL that AIS estimates, with the number of images."""
    return None if row.ais_nll is None else f"{plus_minus(row.ais_nll, row.ais_nll_se, '.2f')} ({row.ais_images})"


def ais_difference(row: Evaluation) -> str | None:
    """Return the cell of the NLL by AIS minus the importance-sampled NLL."""
    lowers = row.ais_lowers_nll
    return None if lowers is None else plus_minus(-lowers, row.ais_lowers_nll_se, "+z.2f")


def loss(row: Evaluation) -> str | None:
    """Return the cell of the loss of a model that is not a generator."""
    return None if row.criterion == SAMPLE_CRITERION else estimate(row.loss, None, ".2f")


def mmd(row: Evaluation) -> str | None:
    """Return the cell of the MMD^2 between samples of a generator and test images."""
    return estimate(row.loss, None, ".4f") if row.criterion == SAMPLE_CRITERION else None


def variance_of_pixels(row: Evaluation) -> str | None:
    """Return the cell of sigma^2 of Gaussian pixels."""
    return None if row.px_scale is None else f"{row.px_scale**2:.2g}"


def joined(values: Sequence[float | None], form: str, separator: str = "+") -> str:
    """Return one number per layer, as in 3+2."""
    return separator.join("not finite" if value is None else format(value, form) for value in values)


def active_units(row: Evaluation) -> str | None:
    """Return the cell of the active units per layer; of many layers, of all together."""
    units = row.active_units_per_layer
    if units is None:
        return None
    return joined(units, "d") if len(units) <= MAX_LAYERS else f"{sum(units)} in {len(units)} {latent_part(row)}s"


def kl_per_layer(row: Evaluation) -> str | None:
    """Return the cell of the KL per layer; of many layers, the smallest and the largest."""
    kl = row.kl_per_layer
    if kl is None or len(kl) <= MAX_LAYERS:
        return None if kl is None else joined(kl, "z.1f")
    finite = [value for value in kl if value is not None]
    return "not finite" if len(finite) < len(kl) else f"{min(finite):z.1f} to {max(finite):z.1f}"


def latent_part(row: Evaluation) -> str:
    """Return what a layer of latents of a model is called."""
    return MODELS[row.model].latent_part if row.model in MODELS else "layer"


def layer_remarks(results: Sequence[Evaluation]) -> list[str]:
    """Return a remark for each run with many layers of latents: the numbers of each layer."""
    remarks = []
    for result in results:
        parts = {"KL": (result.kl_per_layer, "z.1f"), "active units": (result.active_units_per_layer, "d")}
        texts = [
            f"{name} {joined(values, form, ', ')}"
            for name, (values, form) in parts.items()
            if values is not None and len(values) > MAX_LAYERS
        ]
        if texts:
            remarks.append(f"Of each {latent_part(result)} ({run_name(result.checkpoint)}): {'; '.join(texts)}.")
    return remarks


def columns(notes: Sequence[str]) -> dict[str, Callable[[Evaluation], str | None]]:
    """Return all columns of a table: for each title the function that gives its cell, None if a row has no value.

    Args:
        notes: The notes below the table, to which cells of published numbers refer by their position.
    """
    return {
        "run": lambda row: run_name(row.checkpoint),
        "model": lambda row: row.model,
        "prior": lambda row: row.prior,
        "posterior": lambda row: row.posterior,
        "NLL ± SE": nll,
        "bits/dim ± SE": bits_per_dim,
        "bf16 - fp32": lambda row: estimate(row.bf16_bias, row.bf16_bias_se, ".4f"),
        "K": lambda row: formatted(row.num_samples, "d"),
        "to the first": difference_to_first,
        "paper": lambda row: paper_cell(row, "nll", notes),
        "AIS NLL ± SE (images)": ais_nll,
        "AIS - NLL": ais_difference,
        "AIS gap": lambda row: estimate(row.ais_gap, row.ais_gap_se, "z.2f"),
        "sigma^2": variance_of_pixels,
        "Parzen NLL ± SE": lambda row: estimate(row.parzen_nll, row.parzen_nll_se, ".2f"),
        "ELBO": lambda row: estimate(row.elbo, None, ".2f"),
        "rate": lambda row: estimate(row.rate, None, ".2f"),
        "distortion": lambda row: estimate(row.distortion, None, ".2f"),
        "active units": active_units,
        "KL per layer": kl_per_layer,
        "ESS": lambda row: formatted(row.ess_median, ".1f"),
        "k-hat > 0.7": lambda row: formatted(row.k_hat_above, ".0%"),
        "loss": loss,
        "MMD^2": mmd,
        "5-NN": lambda row: formatted(row.knn_error, ".2%"),
        "linear": lambda row: formatted(row.probe_error, ".2%"),
        "test error": lambda row: formatted(row.test_error, ".2%"),
        "paper's": lambda row: paper_cell(row, "test_error", notes),
        "ECE": lambda row: formatted(row.calibration_error, ".2%"),
    }


# Order in which columns are kept if a table is too wide for the terminal
IMPORTANCE = ("run", "NLL ± SE", "bits/dim ± SE", "loss", "test error", "model", "prior", "posterior", "K",
              "to the first", "paper", "paper's", "AIS NLL ± SE (images)", "MMD^2", "active units", "ELBO",
              "KL per layer", "k-hat > 0.7", "AIS - NLL", "5-NN", "linear", "ECE", "rate", "distortion", "ESS",
              "bf16 - fp32", "AIS gap", "sigma^2", "Parzen NLL ± SE")  # fmt: skip
# The same for a table with generators, which have no importance weights: AIS is what the rows have in common
GENERATOR_IMPORTANCE = ("run", "model", "AIS NLL ± SE (images)", "AIS gap", "sigma^2", "NLL ± SE", "Parzen NLL ± SE",
                        "MMD^2", *IMPORTANCE)  # fmt: skip


class ComparisonKey(NamedTuple):
    """The kind of a result. Only results of the same kind share a table.

    Args:
        about: The quantity, or the criterion of a model without a likelihood.
        data: The data set, and how its images differ from the published ones.
        protocol: How pixels are binarized.
        num_images: Number of test images.
        images: Hash of these images. The path of the data would not do: files are moved and copied.
    """

    about: str
    data: str
    protocol: str
    num_images: int
    images: str


def comparison_key(result: Evaluation) -> ComparisonKey:
    """Return the kind of a result."""
    # Older versions stored no hash for models without a likelihood.
    images = result.images_hash or (str(result.data_root) if reads_user_files(result) else "")
    data = " ".join(filter(None, [result.data, result.variant]))
    about = result.quantity or about_loss(result)
    return ComparisonKey(about, data, result.protocol, result.num_images or 0, images)


def about_loss(result: Evaluation) -> str:
    """Return what the loss of a model without a likelihood is, for titles."""
    if result.criterion == SAMPLE_CRITERION:
        return f"{SAMPLE_CRITERION} of samples to all"
    return f"{result.criterion}, summed over pixels,"


def reads_user_files(result: Evaluation) -> bool:
    """Return whether the images of a result come from a file or folder of the user."""
    return result.data in DATAMODULES and DATAMODULES[result.data].reads_user_files


def data_name(results: Sequence[Evaluation]) -> str:
    """Return the name of the data of results of one kind, with its version or the names of the user's files.

    Only the last part of a path is printed: paths are private.
    """
    first = results[0]
    version = DATAMODULES[first.data].version if first.data in DATAMODULES else ""
    roots = [Path(result.data_root).name for result in results if result.data_root]
    files = ", ".join(dict.fromkeys(roots)) if reads_user_files(first) else ""
    return " ".join(filter(None, [first.data, version and f"({version})", files, first.variant]))


def rows(result: Evaluation) -> list[Evaluation]:
    """Return the rows of a result: the model, and the classifiers fitted for comparison, with only a test error."""
    baselines = (result.baselines or {}).items()
    return [
        result,
        *(Evaluation(checkpoint=result.checkpoint, model=name, test_error=error) for name, error in baselines),
    ]


def title(results: Sequence[Evaluation]) -> str:
    """Return the title of the table of results of one kind."""
    about, _, protocol, num_images, _ = comparison_key(results[0])
    classified = max(result.test_error_images or 0 for result in results)
    error = f"; errors of {classified} test images" if classified else ""
    unit = "; nats per image" if results[0].quantity else " (no likelihood)"
    joined = about if about.endswith(" to all") else f"{about} of"
    return f"{data_name(results)}, protocol {protocol}: {joined} {num_images} test images{unit}{error}"


class Table(NamedTuple):
    """A table of results of one kind: its title, columns, lines of cells, and remarks below it.

    `importance` is the order in which columns are kept if the table is too wide for the terminal.
    """

    title: str
    columns: list[str]
    lines: list[list[str]]
    remarks: list[str]
    importance: Sequence[str] = IMPORTANCE


def tables_by_key(results: Sequence[Evaluation]) -> list[Table]:
    """Return one table for each quantity, data set, protocol and set of images."""
    tables = []
    for _, same_key in groupby(sorted(results, key=comparison_key), key=comparison_key):
        group = list(same_key)
        papers = [result.paper for result in group if isinstance(result, ComparedEvaluation)]
        notes = list(dict.fromkeys(paper.remark for paper in papers if paper is not None))
        listed = [row for result in group for row in rows(result)]
        cells = {name: [cell(row) for row in listed] for name, cell in columns(notes).items()}
        cells = {
            name: column
            for name, column in cells.items()
            if any(cell not in (None, DEFAULT_PARTS.get(name)) for cell in column)
        }
        lines = [["-" if cell is None else cell for cell in line] for line in zip(*cells.values(), strict=True)]
        remarks = [f"[{number}] {note}" for number, note in enumerate(notes, 1)]
        about_runs = (layer_remarks, failures, k_hat_remark, label_remark, generator_remarks)
        remarks += [remark for find in about_runs for remark in find(group)]
        has_generators = any(result.criterion == SAMPLE_CRITERION for result in group)
        importance = GENERATOR_IMPORTANCE if has_generators else IMPORTANCE
        tables.append(Table(title(group), list(cells), lines, remarks, importance))
    return tables + two_sample_tables(results)


def paper_cell(row: Evaluation, quantity: str, notes: Sequence[str]) -> str | None:
    """Return the cell of a published number with the number of its note; a dash if it cannot be compared.

    Args:
        row: A result.
        quantity: `nll` or `test_error`.
        notes: The notes below the table.
    """
    paper = row.paper if isinstance(row, ComparedEvaluation) else None
    if paper is None or paper.quantity != quantity:
        return None
    note = f"[{notes.index(paper.remark) + 1}]"
    if not paper.is_comparable:
        return f"- {note}"
    value = f"{paper.value:.2f}" if quantity == "nll" else plus_minus(paper.value, paper.se, ".2%")
    return f"{value} {note}"


def margin(result: Evaluation, pixels_nll: float) -> float:
    """Return by how many nats an NLL must exceed that of the mean image to be reported as a failure.

    Args:
        result: An evaluation.
        pixels_nll: NLL of the mean image.
    """
    is_uncertain = (result.step or SHORT_TRAINING) < SHORT_TRAINING or (result.num_images or 0) < MIN_IMAGES
    # A collapsed model equals the mean image, and may by chance be slightly worse.
    return max(1.0, (FAR_ABOVE if is_uncertain else 0.01) * abs(pixels_nll))


def failures(results: Sequence[Evaluation]) -> list[str]:
    """Return a remark for each run that learned nothing: its NLL is worse than the mean image's, or it has collapsed.

    An M2 that was trained on means of z1 gets a remark on its NLL instead.
    After a short training only a much worse NLL counts, because every model starts out worse than the mean image.
    """
    remarks = []
    for result in results:
        nll, pixels = result.nll, result.pixels_nll
        if trained_on_means(result):
            remarks.append(
                f"M2 was trained on means of z1 ({run_name(result.checkpoint)}), and the NLL is of samples of z1, "
                "which it does not model: compare errors only, or train with --model.sample_z1 true."
            )
        elif nll is not None and pixels is not None and nll > pixels + margin(result, pixels):
            remarks.append(
                f"Training has failed ({run_name(result.checkpoint)}): its NLL is worse than {pixels:.2f}, that of the "
                "mean training image with independent pixels. Train longer, or with a lower --model.lr."
            )
        if result.active_units == 0:
            remarks.append(
                f"The posterior has collapsed ({run_name(result.checkpoint)}): no latent unit is active, and nothing "
                "about an image reaches the decoder."
            )
        # An untrained generator hardly varies yet.
        has_trained = (result.step or SHORT_TRAINING) >= SHORT_TRAINING
        if has_trained and result.duplicates is not None and result.duplicates > COLLAPSED_SHARE:
            remarks.append(
                f"The generator has collapsed ({run_name(result.checkpoint)}): {result.duplicates:.0%} of the pairs of "
                "samples are nearly identical."
            )
        remarks += missing_classes(result)
    return remarks


def trained_on_means(result: Evaluation) -> bool:
    """Return whether a result is of an M1M2 that was trained on the means of q(z1|x) instead of samples."""
    return isinstance(result, ComparedEvaluation) and result.options.get("sample_z1") is False


def missing_classes(result: Evaluation) -> list[str]:
    """Return a remark if classes are missing among the samples of a model."""
    shares = result.two_sample_classes or []
    missing = [str(label) for label, share in enumerate(shares) if share < MISSING_CLASS / len(shares)]
    if not missing:
        return []
    return [
        f"Samples lack classes ({run_name(result.checkpoint)}): the classifier of the two-sample measures sees almost "
        f"none of class {', '.join(missing)}."
    ]


def label_remark(results: Sequence[Evaluation]) -> list[str]:
    """Return a remark if some labels are predicted from other pixels than those of the likelihood."""
    names = [run_name(result.checkpoint) for result in results if has_grey_labels(result)]
    return [f"Labels from grey pixels, likelihood of binarized ones: {', '.join(names)}."] if names else []


def has_grey_labels(result: Evaluation) -> bool:
    """Return whether labels are predicted from grey pixels, and the likelihood is of binarized ones."""
    return result.label_pixels == "grey" and result.protocol not in GREY_PROTOCOLS


def generator_remarks(results: Sequence[Evaluation]) -> list[str]:
    """Return remarks on what the density of generators and the Parzen window estimate are."""
    remarks = []
    generators = [result for result in results if result.criterion == SAMPLE_CRITERION]
    if any(result.ais_nll is not None for result in generators):
        remarks.append(
            "A generator has no importance-sampled NLL. For AIS its p(x|z) is N(g(z), sigma^2 I), with sigma^2 chosen "
            "on validation images (Wu et al. 2017). A VAE keeps the sigma^2 of its training: --model.learn_scale true "
            "makes it comparable."
        )
    at_the_end = [
        f"{result.px_scale**2:.2g} ({run_name(result.checkpoint)})"
        for result in generators
        if result.px_scale is not None and not VARIANCES[0] < round(result.px_scale**2, 9) < VARIANCES[-1]
    ]
    if at_the_end:
        remarks.append(
            f"The chosen sigma^2 is at the end of the grid, which is {VARIANCES[0]:g} to {VARIANCES[-1]:g}: "
            f"{', '.join(at_the_end)}. Another value may give a higher log p(x)."
        )
    if any(result.parzen_nll is not None for result in results):
        remarks.append(
            "The Parzen window estimate is printed because papers report it. It misranks models (Wu et al. 2017, "
            "section 4): compare by AIS."
        )
    return remarks


# Title -> (name of the measure in `Evaluation`, format)
TWO_SAMPLE_COLUMNS: dict[str, tuple[str, str]] = {
    "MMD^2": ("mmd2", "z.5f"),
    "1-NN error": ("nn_error", ".1%"),
    "of test images": ("nn_error_real", ".1%"),
    "of samples": ("nn_error_samples", ".1%"),
    "Fréchet": ("frechet", ".2f"),
    "kernel": ("kernel", "z.4f"),
}
TWO_SAMPLE_IMPORTANCE = ("run", "1-NN error", "MMD^2", "Fréchet", "samples are", "kernel", "model", "of test images",
                         "of samples")  # fmt: skip


def two_sample_key(result: Evaluation) -> tuple:
    """Return what results share that are compared with the same real images.

    The MMD^2 of real images tells sets of images apart; its last digits depend on the machine.
    """
    _, data, protocol, _, _ = comparison_key(result)
    reference = result.two_sample_reference_mmd2
    return data, protocol, result.two_sample_images, None if reference is None else round(reference, 5)


def two_sample_tables(results: Sequence[Evaluation]) -> list[Table]:
    """Return the tables of two-sample measures, one for each data set and protocol."""
    measured = sorted((result for result in results if result.two_sample_images), key=two_sample_key)
    found = []
    for _, same_images in groupby(measured, key=two_sample_key):
        group = list(same_images)
        columns = ["run", "model", "samples are", *TWO_SAMPLE_COLUMNS]
        lines = [line for result in group for line in two_sample_lines(result)]
        # a result without all training labels has no distances in features
        reference = next((result for result in group if result.two_sample_frechet is not None), group[0])
        lines.append(["validation images", "-", "real images", *two_sample_cells(reference, "reference_")])
        n, protocol = group[0].two_sample_images, group[0].protocol
        heading = f"{data_name(group)}, protocol {protocol}: {n} samples and as many test images, two-sample measures"
        has_features = reference.two_sample_frechet is not None
        found.append(Table(heading, columns, lines, two_sample_remarks(group, has_features), TWO_SAMPLE_IMPORTANCE))
    return found


def two_sample_lines(result: Evaluation) -> list[list[str]]:
    """Return one line for the samples of a model, and a second one for samples with Gaussian pixel noise, if any."""
    pixels = "means" if result.protocol in GREY_PROTOCOLS else "binary"
    start = [run_name(result.checkpoint), result.model]
    lines = [[*start, pixels, *two_sample_cells(result)]]
    if result.two_sample_noisy_mmd2 is not None:
        lines.append([*start, "with noise", *two_sample_cells(result, "noisy_")])
    return lines


def two_sample_cells(result: Evaluation, kind: str = "") -> list[str]:
    """Return the cells of `TWO_SAMPLE_COLUMNS`.

    Args:
        result: A result.
        kind: Prefix of the fields: "", "noisy_" or "reference_".
    """
    values = [(getattr(result, f"two_sample_{kind}{name}"), form) for name, form in TWO_SAMPLE_COLUMNS.values()]
    return [formatted(value, form) or "-" for value, form in values]


def two_sample_remarks(results: Sequence[Evaluation], has_features: bool) -> list[str]:
    """Return the notes printed below a table of two-sample measures."""
    remarks = [
        "The last row is what a perfect model would get: real images that are compared with the test images. A 1-NN "
        "error of 50% is best if that of test images and that of samples are both near 50%."
    ]
    if has_features:
        error = next(
            (r.two_sample_classifier_error for r in results if r.two_sample_classifier_error is not None), None
        )
        quality = "" if error is None else f" (test error {error:.2%})"
        remarks.append(
            f"Fréchet and kernel distances are in digit features: those of a small classifier{quality} trained here on "
            "the training images. They cannot be compared with FID or KID, which use an Inception network."
        )
    return remarks


def k_hat_remark(results: Sequence[Evaluation]) -> list[str]:
    """Return a remark if importance sampling is unreliable for some runs, with the differences that AIS finds."""
    doubtful = [
        (result.k_hat_above, result)
        for result in results
        if result.k_hat_above is not None and result.k_hat_above > HIGH_K_HAT_SHARE
    ]
    if not doubtful:
        return []
    share, worst = max(doubtful, key=lambda pair: pair[0])
    remark = (
        f"Pareto k-hat is above 0.7 for up to {share:.0%} of the images ({run_name(worst.checkpoint)}): K = "
        f"{worst.num_samples} samples are too few for them, and the NLL, a bound from above, would fall with more."
    )
    found = [ais_finding(result, result.ais_lowers_nll) for _, result in doubtful if result.ais_lowers_nll is not None]
    if not found:
        return [f"{remark} evaluate.py --ais says by how much at least."]
    return [
        f"{remark} AIS, itself a lower bound on log p(x), finds {', '.join(found)} on the images that it was run on."
    ]


def ais_finding(result: Evaluation, lowers_nll: float) -> str:
    """Describe how much more log p(x) AIS finds than importance sampling; less than two standard errors is no more."""
    amount = f"{plus_minus(lowers_nll, result.ais_lowers_nll_se, 'z.2f')} nats"
    if lowers_nll <= 2 * (result.ais_lowers_nll_se or 0):
        return f"no more with these chains ({amount}, {run_name(result.checkpoint)})"
    return f"at least {amount} more ({run_name(result.checkpoint)})"


def tables(results: Sequence[Evaluation], screen: Screen = FILE) -> str:
    """Return all results as text: the tables of each kind, followed by those of content and pose."""
    parts = []
    for table in [*tables_by_key(results), *disentanglement_tables(results)]:
        parts += wrapped(table.title, screen)
        parts += lay_out(table.columns, table.lines, screen, table.importance)
        parts += [line for remark in table.remarks for line in wrapped(remark, screen)]
        parts.append("")
    return "\n".join(parts)


# Column -> (key of `Evaluation.disentanglement`, format)
DISENTANGLEMENT_COLUMNS: dict[str, tuple[str, str]] = {
    "angle r": ("angle_correlation", ".3f"),
    "shift r": ("shift_correlation", ".3f"),
    "scale r": ("scale_correlation", ".3f"),
    "change r": ("change_correlation", ".3f"),
    "equivariance (°)": ("equivariance_error", ".1f"),
    "canonical var.": ("canonical_variance", ".2f"),
    "reconstr. var.": ("reconstruction_variance", ".2f"),
    "k-means": ("kmeans_accuracy", ".2%"),
    "angle R²": ("angle_r2", ".3f"),
}


def disentanglement_tables(results: Sequence[Evaluation]) -> list[Table]:
    """Return the tables of content and pose, one for each data set and its moves."""

    def heading(result: Evaluation) -> str:
        moved = "" if result.moved and result.moved in result.variant else f", {result.moved} for this"
        return f"{data_name([result])}, protocol {result.protocol}: content and pose of all test images{moved}"

    def cells(result: Evaluation) -> list[str]:
        values = result.disentanglement or {}
        formats = DISENTANGLEMENT_COLUMNS.values()
        measures = [formatted(values.get(key), form) or "-" for key, form in formats]
        return [run_name(result.checkpoint), result.model, *measures]

    measured = sorted((result for result in results if result.disentanglement), key=heading)
    columns = ["run", "model", *DISENTANGLEMENT_COLUMNS]
    return [
        Table(text, columns, [cells(result) for result in group], [], importance=())
        for text, group in groupby(measured, key=heading)
    ]
