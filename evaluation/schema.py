"""Types of evaluation results.

`Evaluation` is the content of one `evaluation.json`. `ComparedEvaluation` adds what is known only when several results,
and published numbers, are seen together; it is one entry of a report's `results.json`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self, get_args, get_type_hints

import numpy as np

NATS = "nats per image"


class Doc(NamedTuple):
    """Documentation of a field of `Evaluation`.

    Args:
        meaning: What the value is.
        unit: Its unit, if it has one.
    """

    meaning: str
    unit: str = ""


@dataclass(kw_only=True)
class Evaluation:
    """Everything that an evaluation measures on one checkpoint, and where the checkpoint comes from.

    The fields are the keys of `evaluation.json`, in the same order. A field is None (null in the file) if the model
    does not have it, if it was not asked for, or if its value is not finite.
    """

    model: Annotated[str, Doc("Name of the model class.")] = ""
    prior: Annotated[str | None, Doc("`--model.prior`, of M1M2 that of z2; null for a model without this option.")] = (
        None
    )
    posterior: Annotated[
        str | None, Doc("`--model.posterior`, of M1M2 that of z2; null for a model without this option.")
    ] = None
    data: Annotated[str, Doc("Name of the data set.")] = ""
    variant: Annotated[str, Doc("How the images were changed, such as resized or rotated; empty if unchanged.")] = ""
    protocol: Annotated[str, Doc("How pixels are binarized, or `grey` or `levels`.")] = ""
    seed: Annotated[int | None, Doc("`--seed` of training.")] = None
    quantity: Annotated[
        str | None, Doc("What `nll` and `ais_nll` are the negative of, such as `log p(x)`; null without a likelihood.")
    ] = None
    nll: Annotated[
        float | None,
        Doc("Negative log-likelihood, importance-sampled; null for generators, which only have `ais_nll`.", NATS),
    ] = None
    nll_se: Annotated[float | None, Doc("Standard error of `nll` over images.", NATS)] = None
    bits_per_dim: Annotated[
        float | None,
        Doc(
            "`nll` per pixel and channel, for 8-bit grey levels: on protocol `levels` that of the levels, on `grey` an "
            "upper bound on it from the density of dequantised pixels. Null for binarized pixels.",
            "bits per dimension",
        ),
    ] = None
    bits_per_dim_se: Annotated[
        float | None, Doc("Standard error of `bits_per_dim` over images.", "bits per dimension")
    ] = None
    pixels_nll: Annotated[
        float | None,
        Doc("NLL of a model without latents: independent pixels at the mean of the training images.", NATS),
    ] = None
    num_samples: Annotated[int | None, Doc("K, the importance samples per image.")] = None
    num_images: Annotated[
        int | None, Doc("Test images that `nll` is the mean of; without a likelihood, those of `loss`.", "images")
    ] = None
    precision: Annotated[str | None, Doc("Precision of the likelihoods: `fp32` or `bf16`.")] = None
    bf16_bias: Annotated[float | None, Doc("NLL in bf16 minus NLL in fp32, on the first images.", NATS)] = None
    bf16_bias_se: Annotated[float | None, Doc("Standard error of `bf16_bias` over images.", NATS)] = None
    elbo: Annotated[float | None, Doc("Evidence lower bound: -(`rate` + `distortion`).", NATS)] = None
    rate: Annotated[float | None, Doc("KL(q(z|x) || p(z)), mean over images.", NATS)] = None
    kl_per_layer: Annotated[
        list[float] | None,
        Doc("KL of each layer of latents, of DRAW of each step; they sum to `rate`. Null for a single layer.", NATS),
    ] = None
    distortion: Annotated[float | None, Doc("-E[log p(x|z)] under the posterior, mean over images.", NATS)] = None
    ess_median: Annotated[float | None, Doc("Median effective sample size of the K weights.", "samples")] = None
    k_hat_median: Annotated[float | None, Doc("Median Pareto k-hat of the importance weights.")] = None
    k_hat_above: Annotated[
        float | None, Doc("Share of images with k-hat above 0.7, for which K is too small.", "fraction")
    ] = None
    ais_nll: Annotated[float | None, Doc("NLL by AIS, on the first `ais_images` test images.", NATS)] = None
    ais_nll_se: Annotated[float | None, Doc("Standard error of `ais_nll` over images.", NATS)] = None
    ais_lowers_nll: Annotated[float | None, Doc("`nll` of the same images minus `ais_nll`.", NATS)] = None
    ais_lowers_nll_se: Annotated[float | None, Doc("Standard error of `ais_lowers_nll`, paired by image.", NATS)] = None
    ais_gap: Annotated[
        float | None,
        Doc("Upper minus lower bound on log p(x), on images sampled from the model (bidirectional Monte Carlo).", NATS),
    ] = None
    ais_gap_se: Annotated[float | None, Doc("Standard error of `ais_gap` over sampled images.", NATS)] = None
    ais_images: Annotated[int | None, Doc("Number of test images that AIS was run on.", "images")] = None
    ais_simulated: Annotated[int | None, Doc("Images sampled from the model, for `ais_gap`.", "images")] = None
    ais_chains: Annotated[int | None, Doc("AIS chains per image.")] = None
    ais_temperatures: Annotated[int | None, Doc("Intermediate distributions of each chain.")] = None
    ais_leapfrogs: Annotated[int | None, Doc("Leapfrog steps of each Hamiltonian trajectory.")] = None
    ais_start: Annotated[str | None, Doc("Distribution that chains start from: `prior` or `posterior`.")] = None
    ais_acceptance: Annotated[float | None, Doc("Share of Hamiltonian moves that were accepted.", "fraction")] = None
    px_scale: Annotated[
        float | None,
        Doc(
            "Sigma of p(x|z) with Gaussian pixels. That of a generator is chosen on validation images, for AIS.",
            "pixel value",
        ),
    ] = None
    parzen_nll: Annotated[
        float | None, Doc("NLL by the Parzen window estimate, which misranks models, on `num_images`.", NATS)
    ] = None
    parzen_nll_se: Annotated[float | None, Doc("Standard error of `parzen_nll` over images.", NATS)] = None
    parzen_scale: Annotated[
        float | None, Doc("Standard deviation of the window, chosen on validation images.", "pixel value")
    ] = None
    parzen_samples: Annotated[int | None, Doc("Samples of the model at the centres of the windows.")] = None
    two_sample_images: Annotated[
        int | None, Doc("Samples, and test images, that the two-sample measures compare.", "images")
    ] = None
    two_sample_mmd2: Annotated[
        float | None, Doc("Unbiased squared maximum mean discrepancy between samples and test images.")
    ] = None
    two_sample_nn_error: Annotated[
        float | None,
        Doc(
            "Leave-one-out error of 1-nearest-neighbour between samples and test images; 0.5 is best.",
            "fraction",
        ),
    ] = None
    two_sample_nn_error_real: Annotated[float | None, Doc("The same, on the test images.", "fraction")] = None
    two_sample_nn_error_samples: Annotated[float | None, Doc("The same, on the samples.", "fraction")] = None
    two_sample_frechet: Annotated[
        float | None, Doc("Fréchet distance of samples to test images in features of a digit classifier (not FID).")
    ] = None
    two_sample_kernel: Annotated[
        float | None, Doc("Kernel distance in the same features (not KID), mean over subsets.")
    ] = None
    two_sample_kernel_sd: Annotated[float | None, Doc("Standard deviation of the kernel distance over subsets.")] = None
    two_sample_noisy_mmd2: Annotated[
        float | None,
        Doc("Unbiased squared maximum mean discrepancy between samples with pixel noise and test images."),
    ] = None
    two_sample_noisy_nn_error: Annotated[
        float | None,
        Doc(
            "Leave-one-out error of 1-nearest-neighbour between samples with pixel noise and test images; 0.5 is best.",
            "fraction",
        ),
    ] = None
    two_sample_noisy_nn_error_real: Annotated[float | None, Doc("The same, on the test images.", "fraction")] = None
    two_sample_noisy_nn_error_samples: Annotated[
        float | None, Doc("The same, on the samples with pixel noise.", "fraction")
    ] = None
    two_sample_noisy_frechet: Annotated[
        float | None,
        Doc("Fréchet distance of samples with pixel noise to test images in features of a digit classifier (not FID)."),
    ] = None
    two_sample_noisy_kernel: Annotated[
        float | None, Doc("Kernel distance in the same features (not KID), mean over subsets.")
    ] = None
    two_sample_noisy_kernel_sd: Annotated[
        float | None, Doc("Standard deviation of the kernel distance over subsets.")
    ] = None
    two_sample_reference_mmd2: Annotated[
        float | None, Doc("Unbiased squared maximum mean discrepancy between validation images and test images.")
    ] = None
    two_sample_reference_nn_error: Annotated[
        float | None,
        Doc(
            "Leave-one-out error of 1-nearest-neighbour between validation images and test images; 0.5 is best.",
            "fraction",
        ),
    ] = None
    two_sample_reference_nn_error_real: Annotated[float | None, Doc("The same, on the test images.", "fraction")] = None
    two_sample_reference_nn_error_samples: Annotated[
        float | None, Doc("The same, on the validation images.", "fraction")
    ] = None
    two_sample_reference_frechet: Annotated[
        float | None,
        Doc("Fréchet distance of validation images to test images in features of a digit classifier (not FID)."),
    ] = None
    two_sample_reference_kernel: Annotated[
        float | None, Doc("Kernel distance in the same features (not KID), mean over subsets.")
    ] = None
    two_sample_reference_kernel_sd: Annotated[
        float | None, Doc("Standard deviation of the kernel distance over subsets.")
    ] = None
    two_sample_classifier_error: Annotated[
        float | None, Doc("Share of test images that this classifier misclassifies.", "fraction")
    ] = None
    two_sample_classes: Annotated[
        list[float] | None, Doc("Share of samples in each class, as the digit classifier sees them.", "fraction")
    ] = None
    active_units: Annotated[int | None, Doc("Latent dimensions whose posterior mean varies over images.")] = None
    active_units_per_layer: Annotated[list[int] | None, Doc("The same, for each stochastic layer.")] = None
    active_dimensions: Annotated[list[list[bool]] | None, Doc("Per layer and dimension: whether it is active.")] = None
    kl_per_dimension: Annotated[
        list[list[float]] | None,
        Doc("Per layer and dimension: mean KL between the marginals of posterior and prior.", NATS),
    ] = None
    duplicates: Annotated[
        float | None,
        Doc(
            "Share of pairs of samples that are nearly identical, beyond that of test images: mode collapse.",
            "fraction",
        ),
    ] = None
    knn_error: Annotated[float | None, Doc("Test error of 5-NN on posterior means.", "fraction")] = None
    probe_error: Annotated[float | None, Doc("Test error of logistic regression on these.", "fraction")] = None
    disentanglement: Annotated[
        dict[str, float] | None,
        Doc("Measures of how well content and pose are separated, by name (see `evaluation/disentanglement.py`)."),
    ] = None
    moved: Annotated[str | None, Doc("How test images were moved to measure `disentanglement`.")] = None
    test_error: Annotated[float | None, Doc("Share of labelled test images misclassified.", "fraction")] = None
    test_error_images: Annotated[int | None, Doc("Labelled test images, for all test errors.", "images")] = None
    label_pixels: Annotated[
        str | None, Doc("Pixels that labels are predicted from: `grey` (before binarization) or `binarized`.")
    ] = None
    calibration_error: Annotated[
        float | None,
        Doc(
            "Expected calibration error of the predicted classes of the same images: mean absolute difference of "
            "confidence and accuracy, over 15 bins of the confidence.",
            "fraction",
        ),
    ] = None
    confusion: Annotated[list[list[int]] | None, Doc("Confusion matrix, a row per true class.", "images")] = None
    baselines: Annotated[
        dict[str, float] | None,
        Doc("Test error of each scikit-learn classifier that was fitted for comparison, by its name.", "fraction"),
    ] = None
    criterion: Annotated[
        str | None, Doc("What `loss` is, such as a reconstruction loss, or the MMD^2 of samples to test images.")
    ] = None
    loss: Annotated[
        float | None, Doc("Loss of a model without importance weights, on all test images: mean of `criterion`.")
    ] = None
    epochs: Annotated[int | None, Doc("Epochs trained when the checkpoint was written.")] = None
    step: Annotated[int | None, Doc("Optimizer steps taken when the checkpoint was written.")] = None
    processes: Annotated[int | None, Doc("Processes that trained the model.")] = None
    labels_hash: Annotated[str | None, Doc("Hash of the labels given in training, if only some were.")] = None
    images_hash: Annotated[str | None, Doc("Hash of the evaluated test images.")] = None
    images_read_as: Annotated[
        str | None,
        Doc("How images of the user were read: type, scale, rounding error, conversions; null if unchanged."),
    ] = None
    weights_hash: Annotated[str | None, Doc("Hash of the evaluated weights.")] = None
    data_root: Annotated[str | None, Doc("Path of the data. Reports leave it out.")] = None
    commit: Annotated[list[str] | None, Doc("Commits that trained the model; `+` marks local changes.")] = None
    machine: Annotated[list[str] | None, Doc("Processors or GPUs that trained the model.")] = None
    seconds: Annotated[float | None, Doc("Time spent in training.", "s")] = None
    checkpoint: Annotated[str, Doc("Path of the checkpoint.")] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the keys and values of `evaluation.json`, in the order of the file."""
        return {name: getattr(self, name) for name in KEYS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the evaluation that a file holds.

        Args:
            values: Content of an `evaluation.json`. Unknown keys, of newer versions, are ignored; missing keys, of
                older versions, get their default.
        """
        return cls(**{name: values[name] for name in KEYS if name in values})


KEYS = tuple(field.name for field in dataclasses.fields(Evaluation))


class Difference(NamedTuple):
    """Difference of two negative log-likelihoods, paired by image.

    Args:
        nll: Mean difference in nats per image.
        se: Its standard error; None for a single image.
    """

    nll: float
    se: float | None


@dataclass(frozen=True)
class PublishedReference:
    """The published number nearest to a result, and how the two experiments differ.

    Args:
        quantity: The field of `Evaluation` that the number corresponds to: `nll` or `test_error`.
        value: The published number: nats per image, or a fraction.
        se: Its spread over runs, if the paper gives one.
        source: Paper and table, with its K and epochs.
        epochs: Epochs of the published training, if known.
        differences: All differences between the experiments, as text; None if they agree and can be compared.
        remark: Note below a table.
        summary: Text in the row of a report.
    """

    quantity: str
    value: float
    se: float | None
    source: str
    epochs: int | None
    differences: str | None
    remark: str
    summary: str

    @property
    def is_comparable(self) -> bool:
        """Whether nothing that decides comparability differs from the run."""
        return self.differences is None

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of a report.

        A comparable number is `paper_nll` or `paper_error`, any other `nearest_nll` or `nearest_error`.
        """
        name = f"{'paper' if self.is_comparable else 'nearest'}_{'nll' if self.quantity == 'nll' else 'error'}"
        entry = {
            name: self.value,
            f"{name}_se": self.se,
            "paper_source": self.source,
            "paper_epochs": self.epochs,
        }
        if not self.is_comparable:
            entry["paper_differences"] = self.differences
        return entry | {"paper_remark": self.remark, "words": self.summary}


@dataclass(kw_only=True)
class ComparedEvaluation(Evaluation):
    """An evaluation with everything it is compared to.

    Args:
        paper: The nearest published number, if any is near enough to be mentioned.
        options: Training options that are not at their default.
        all_options: All training options. They are in the comparison page of a report, but not in `results.json`.
        versus: Difference to the NLL of each earlier run with the same images and K, by the name of that run.
    """

    paper: PublishedReference | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    all_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    versus: dict[str, Difference] = dataclasses.field(default_factory=dict)

    @property
    def versus_first(self) -> Difference | None:
        """The difference to the first run; None if there is no earlier run to compare with."""
        return next(iter(self.versus.values()), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of `Evaluation`, followed by those of its comparisons; absent comparisons have no key."""
        entry = super().to_dict()
        if self.paper is not None:
            entry |= self.paper.to_dict()
        entry["options"] = self.options
        if self.versus_first is not None:
            entry["versus"] = {name: difference._asdict() for name, difference in self.versus.items()}
            entry |= {"versus_first": self.versus_first.nll, "versus_first_se": self.versus_first.se}
        return entry


def to_json(value: Any) -> Any:
    """Convert a value to what JSON can hold: NumPy scalars to Python's, numbers that are not finite to None."""
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown_table() -> str:
    """Return the table of all keys in `docs/evaluate.md`."""
    lines = ["| key | type | unit | meaning |", "|---|---|---|---|"]
    for name, annotation in get_type_hints(Evaluation, include_extras=True).items():
        kind, doc = get_args(annotation)
        text = kind.__name__ if kind in (int, float, str) else str(kind)
        meaning = doc.meaning.replace("|", "\\|")
        lines.append(f"| `{name}` | {text.removesuffix(' | None')} | {doc.unit} | {meaning} |")
    return "\n".join(lines)
