"""Evaluate checkpoints on test images: `python evaluate.py RUN/checkpoints/best.ckpt [...]`.

A checkpoint contains its model, data set and protocol. Each run folder gets an `evaluation.json`, `log_px.npy` with the
per-image values in test order, and figures. All runs are printed as one table, with means over runs that differ only in
their seeds. The table is printed even if no file can be written.
"""

import gc
import sys
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path

from evaluation.evaluate import EvaluationConfig, evaluate_checkpoint

if __name__ == "__main__":
    gc.disable()  # imports allocate 500k long-lived objects; skipping garbage collection saves 0.5 s of start-up

import torch
from jsonargparse import Namespace
from torch import distributed

import models
from callbacks.wandb_environment import mode as wandb_mode
from cli.errors import explain_error, explain_option_error
from cli.evaluate_options import build_evaluation_parser
from cli.streams import prepare_streams
from cli.terminal import terminal
from cli.train_options import expand_paths
from datamodules import ImageData
from evaluation import report
from evaluation.comparisons import with_comparisons
from evaluation.inputs import open_and_validate, open_checkpoint, pick_device
from evaluation.over_seeds import SeedMean, as_text, over_seeds
from evaluation.rate_distortion import save_rate_distortion_charts
from evaluation.result_files import EvaluationFiles, suffix
from evaluation.schema import ComparedEvaluation, Evaluation
from evaluation.side_by_side import save_comparison
from evaluation.tables import tables
from evaluation.wandb_table import mirror
from models.estimators.ais import Settings
from runtime.failures import check_compiler
from runtime.figure_files import FigureStyle
from runtime.processes import (
    configure_performance,
    filter_warnings,
    global_rank,
    init_distributed,
    rank_prefix,
    shutdown_distributed,
)
from runtime.run_folder import run_folder
from runtime.threads import check_threads

__all__ = ["evaluate_checkpoint", "main", "open_checkpoint"]


def config_from_args(args: Namespace) -> EvaluationConfig:
    """Return the configuration that the options describe."""
    chains = Settings(args.ais_chains, args.ais_temperatures, args.ais_leapfrogs, args.ais_start)
    return EvaluationConfig(
        args.num_samples,
        args.limit,
        args.precision,
        with_baselines=args.baselines,
        figures=args.figures,
        ais=chains if args.ais else None,
        ais_images=args.ais_images,
        two_sample=args.two_sample,
        with_probes=True,
        overwrite=args.overwrite,
        style=FigureStyle(args.figure_format, args.figure_dpi),
        threads=args.threads,
        compile=args.compile,
    )


def evaluate_all(
    args: Namespace, ready: list[tuple[dict, ImageData]], device: str, files: EvaluationFiles
) -> tuple[list[Evaluation], list[dict], list[Exception]]:
    """Evaluate all checkpoints.

    Returns:
        Results (on rank 0 only), their checkpoints, and the errors of checkpoints that could not be evaluated.
    """
    config, results, checkpoints, errors = config_from_args(args), [], [], []
    for number, (path, (checkpoint, data)) in enumerate(zip(args.checkpoints, ready, strict=True), 1):
        if len(ready) > 1 and global_rank() == 0:
            print(f"{number}/{len(ready)} {path}", file=sys.stderr)
        kind = models.MODELS[checkpoint["model"]]
        able = config if kind.can("ais_log_px") else config._replace(ais=None)
        try:
            result = evaluate_checkpoint(checkpoint, Path(path), data, able, device, files)
            if result is not None:
                results.append(result)
                checkpoints.append(checkpoint)
        except Exception as error:  # no error of one checkpoint may lose the results of the others
            if distributed.is_available() and distributed.is_initialized():
                raise  # the other ranks wait for this one
            errors.append(error)
            print(f"error: {path} could not be evaluated: {explain_error(error)}", file=sys.stderr)
    return results, checkpoints, errors


def evaluate_and_report(args: Namespace, ready: list[tuple[dict, ImageData]], device: str) -> int:
    """Evaluate all checkpoints, print their tables and write the report. Return the exit status."""
    files = EvaluationFiles()
    for path in args.checkpoints:
        files.check(Path(path))
    results, checkpoints, errors = evaluate_all(args, ready, device, files)
    if global_rank() != 0:
        return 0
    status = 1 if errors else 0
    if results:
        screen = terminal()
        compared = with_comparisons(results, checkpoints, files.log_px)
        print(tables(compared, screen))
        if means := over_seeds(compared, checkpoints):
            print(as_text(means, screen))
        status = max(status, write_all(args, ready, compared, means, device, files))
    unforeseen = [error for error in errors if not isinstance(error, ValueError | OSError | MemoryError | RuntimeError)]
    if unforeseen:
        raise unforeseen[0]
    return status


def write_all(
    args: Namespace,
    ready: list[tuple[dict, ImageData]],
    results: list[ComparedEvaluation],
    means: list[SeedMean],
    device: str,
    files: EvaluationFiles,
) -> int:
    """Write everything outside of run folders; one failure does not prevent the others. Return the exit status."""
    status, style = 0, FigureStyle(args.figure_format, args.figure_dpi)
    if args.side_by_side:
        status |= write_or_explain(
            "side_by_side",
            args,
            lambda: save_comparison(args.checkpoints, ready, Path(args.side_by_side), device, style),
        )
    if args.report:
        failed = write_or_explain("report", args, lambda: write_report(Path(args.report), results, means, style))
        status |= failed
        if not failed:
            print(f"Report: {args.report}")
            files.unsaved.clear()  # all results are saved in the report
    if (wandb := wandb_mode(args.wandb)) != "off":
        paths = [Path(result.checkpoint) for result in results]
        folders, suffixes = [run_folder(path) for path in paths], [suffix(path) for path in paths]
        kept = [files.kept.get(result.checkpoint, result) for result in results]
        mirror(results, folders, Path(args.report or folders[0]), wandb == "offline", kept, suffixes)
    for path, error in files.unsaved.items():
        status = 1
        print(
            f"error: the result of {path} is printed above, but not saved: {explain_error(error)} Free disk space, "
            "change the permissions, or save the results elsewhere by --report.",
            file=sys.stderr,
        )
    return status


def write_report(folder: Path, results: list[ComparedEvaluation], means: list[SeedMean], style: FigureStyle) -> None:
    """Write the tables and figures of all results."""
    save_rate_distortion_charts(folder, results, style)
    report.write_report(folder, results, means, style)


def write_or_explain(option: str, args: Namespace, write: Callable[[], None]) -> int:
    """Write the files of an option. Return the exit status: 1 if this fails, else 0."""
    try:
        write()
    except OSError as error:
        print(
            f"error: {explain_error(error)} Free disk space, change the permissions, or choose another --{option} than "
            f"{args[option]}: what has been computed is not computed again.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:  # such as too little memory for a figure; the other files are still written
        print(f"error: --{option} {args[option]} could not be written: {explain_error(error)}", file=sys.stderr)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    prepare_streams()
    configure_performance()
    filter_warnings()
    try:
        args = expand_paths(build_evaluation_parser().parse_args(argv))
        check_threads(args.threads)
        device = pick_device(args.device)
        ready = open_and_validate(args)
        if args.compile:
            check_compiler(torch.device(device).type)
        device = init_distributed(device, args.devices)
    except (ValueError, OSError, ArgumentError) as error:
        known = [key for key in build_evaluation_parser().get_defaults().keys(branches=False) if key != "checkpoints"]
        message = explain_error(error) if isinstance(error, OSError) else explain_option_error(error, {}, known)
        print(f"{rank_prefix()}error: {message}", file=sys.stderr)
        return 2
    try:
        return evaluate_and_report(args, ready, device)
    except OSError as error:
        print(f"{rank_prefix()}error: {explain_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with the checkpoints that are left.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # Freezing and unfreezing moves all objects to the oldest generation, which the next collections skip. If they
    # stayed frozen, libraries would report them as leaks at exit.
    gc.freeze()
    gc.unfreeze()
    gc.enable()
    sys.exit(shutdown_distributed(main()))
