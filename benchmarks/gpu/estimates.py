"""Rates of likelihoods: importance sampling as in `evaluate.py`, its bias in bf16, and annealed importance sampling."""

import io
import json
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import evaluate
import models
from benchmarks.gpu.session import Session
from benchmarks.gpu.training import run_train
from datamodules import MNIST
from evaluation.ais import PILOT_IMAGES
from evaluation.metrics import IMAGES_PER_PASS, compiled_log_weights, likelihoods, standard_error
from models.estimators.ais import Settings, anneal, tune

K = 5000
TEST_IMAGES = 10_000
NLL_SECONDS = 8.0  # per precision
AIS_SECONDS = 60.0
PAPER = Settings(chains=16, temperatures=10_000)  # Wu et al. (2017)
PILOT_TEMPERATURES = 200
AIS_IMAGES = (1000, 300, 100, 30, 10)
MIN_TEMPERATURES = 5


def trained_run(session: Session) -> Path:
    """Return the run folder of the first model that was trained; train one if there is none."""
    if "trained" not in session.shared:
        options = ["--data.batch_size", "1024", "--steps_per_call", "1", "--trainer.max_epochs", "5"]
        session.shared["trained"] = run_train(session, *options).folder
    return session.shared["trained"]


def trained_model(session: Session) -> models.Model:
    """Return the trained model on the device."""
    return models.load(trained_run(session) / "checkpoints" / "best.ckpt").to(session.device)


def images(session: Session, split: str, number: int) -> tuple[Tensor, Tensor]:
    """Return the first images of a split and their labels, on the device."""
    data = MNIST(root=str(session.root))
    data.setup()
    return data.images(split, number, session.device)


def nll(precision: str, *, compiled: bool = False, tf32: bool = False) -> Callable[[Session], dict[str, Any]]:
    """Return a job that measures the rate of importance sampling, on as many test images as the time permits.

    The bias of the others is measured too: the mean difference to fp32 of the same images, with its standard error.

    Args:
        precision: fp32 or bf16.
        compiled: Compile the log weights, as evaluate.py --compile does.
        tf32: Compute products of float32 matrices in TF32.
    """

    def measure(session: Session) -> dict[str, Any]:
        if tf32:
            torch.set_float32_matmul_precision("high")
        samples = 50 if session.is_tiny else K
        model = trained_model(session)
        x, y = images(session, "test", 20 if session.is_tiny else TEST_IMAGES)

        def estimate(number: int) -> tuple[np.ndarray, float]:
            session.synchronize()
            start = time.perf_counter()
            values = likelihoods(model, x[:number], y[:number], samples, precision)["log_px"]
            return values, time.perf_counter() - start

        with compiled_log_weights(model) if compiled else nullcontext():
            _, first = estimate(IMAGES_PER_PASS)  # allocates, and compiles
            _, seconds = estimate(2 * IMAGES_PER_PASS)
            number = int(2 * IMAGES_PER_PASS / seconds * NLL_SECONDS) // IMAGES_PER_PASS * IMAGES_PER_PASS
            log_px, seconds = estimate(max(IMAGES_PER_PASS, min(len(x), number)))
        result: dict[str, Any] = {
            "images_per_s": round(len(log_px) / seconds, 1),
            "K": samples,
            "images": len(log_px),
            "nll": -float(log_px.mean()),
            "first_s": round(first, 2),
        }
        if precision == "fp32" and not tf32:
            session.shared["log_px"] = log_px
        elif "log_px" in session.shared:
            both = min(len(log_px), len(session.shared["log_px"]))
            raised = session.shared["log_px"][:both] - log_px[:both]
            result |= {"raises_nll_by": float(raised.mean()), "raises_nll_by_se": standard_error(raised)}
        return result

    return measure


def evaluation(*options: str) -> Callable[[Session], dict[str, Any]]:
    """Return a job that runs evaluate.py as a user does, on all test images.

    Args:
        options: Options of evaluate.py.
    """

    def measure(session: Session) -> dict[str, Any]:
        samples, limit = ("50", "20") if session.is_tiny else (str(K), str(TEST_IMAGES))
        folder, output = trained_run(session), io.StringIO()
        argv = [str(folder / "checkpoints" / "best.ckpt"), "--figures", "[samples]", "--num_samples", samples]
        argv += ["--limit", limit, "--overwrite", "--device", session.device, *options]
        start = time.perf_counter()
        with redirect_stdout(output), redirect_stderr(output):
            status = evaluate.main(argv)
        seconds = time.perf_counter() - start
        if status != 0:
            raise RuntimeError(f"evaluate.py ended with status {status}: {output.getvalue()[-600:]}")
        found = json.loads((folder / "evaluation.json").read_text())
        names = ("num_images", "nll", "nll_se", "bf16_bias", "bf16_bias_se", "k_hat_median")
        return {
            **{name: found[name] for name in names if found.get(name) is not None},
            "whole_command_s": round(seconds, 2),
            "options": " ".join(["--num_samples", samples, *options]),
        }

    return measure


def ais(session: Session) -> dict[str, Any]:
    """Run AIS at the papers' setting on as many images as a minute allows, or on fewer temperatures if none fits.

    A short run measures the rate first, to choose the number of images. Step sizes are tuned in a pilot run with
    `PILOT_TEMPERATURES` temperatures and interpolated to all of them, which saves time.
    """
    settings = Settings(2, MIN_TEMPERATURES, 2) if session.is_tiny else PAPER
    available = (4,) if session.is_tiny else AIS_IMAGES
    seconds_allowed = max(1.0, min(AIS_SECONDS, session.left() - 10))
    model = trained_model(session)
    x, _ = images(session, "test", max(available))
    pilot, _ = images(session, "val", PILOT_IMAGES)
    steps = tune(model, pilot, settings._replace(temperatures=PILOT_TEMPERATURES))

    def seconds_per_temperature(number: int) -> float:
        short = settings._replace(temperatures=MIN_TEMPERATURES)
        session.synchronize()
        start = time.perf_counter()
        anneal(model, x[:number], short, resampled(steps, MIN_TEMPERATURES - 1))
        session.synchronize()
        return (time.perf_counter() - start) / MIN_TEMPERATURES

    seconds_per_temperature(available[-1])  # allocates
    speeds = {number: seconds_per_temperature(number) for number in available}
    fits = [number for number in available if speeds[number] * settings.temperatures <= seconds_allowed]
    number = fits[0] if fits else available[-1]
    temperatures = settings.temperatures if fits else max(2, int(seconds_allowed / speeds[number]))
    used = settings._replace(temperatures=temperatures)
    start = time.perf_counter()
    result = anneal(model, x[:number], used, resampled(steps, temperatures - 1))
    log_px = result.log_px.cpu().numpy()
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {
        "images": number,
        "chains": used.chains,
        "temperatures": temperatures,
        "ais_nll": -float(log_px.mean()),
        "ais_nll_se": standard_error(log_px),
        "acceptance": float(result.acceptance.mean()),
        "ms_per_temperature": round(1000 * seconds / temperatures, 3),
        "ms_per_temperature_by_images": ", ".join(f"{n}: {1000 * speed:.1f}" for n, speed in speeds.items()),
    }
    if "log_px" in session.shared:
        both = min(number, len(session.shared["log_px"]))
        lowered = log_px[:both] - session.shared["log_px"][:both]
        found |= {"ais_lowers_nll": float(lowered.mean()), "ais_lowers_nll_se": standard_error(lowered)}
    return found


def resampled(values: list[float], number: int) -> list[float]:
    """Return so many values at even distances along a list, interpolated linearly."""
    places = torch.linspace(0, len(values) - 1, number, dtype=torch.float64).numpy()
    return np.interp(places, np.arange(len(values)), values).tolist()
