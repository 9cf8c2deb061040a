"""Trains a model and reports its test likelihood: `python train.py --model VAE --data Digits`."""

import gc
import shlex
import sys
from argparse import ArgumentError
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # imports make half a million objects that stay: to search them for garbage takes half a second

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import callbacks
from callbacks.early_stopping import check_validation
from callbacks.graceful_stop import Interrupted
from callbacks.loggers import MetricsCSV, WandbRun, close_wandb, flat
from callbacks.nan_guard import Diverged
from callbacks.wandb_environment import mode as wandb_mode
from cli.errors import explain
from cli.streams import prepare_streams
from cli.terminal import terminal
from cli.train_options import (
    DEFAULTS,
    build_parser,
    check_numbers,
    check_trainer,
    expand_paths,
    option_names,
    split_component_flags,
)
from datamodules import DATAMODULES, ImageData
from evaluation.comparisons import with_comparisons
from evaluation.evaluate import EvaluationConfig, evaluate_checkpoint
from evaluation.result_files import EvaluationFiles, existing_result
from evaluation.tables import tables
from models import MODELS, Model, read_checkpoint
from runtime.atomic_write import atomic_write
from runtime.failures import check_batch_norm, check_compiler, explain_failure
from runtime.figure_files import FigureStyle, check_style
from runtime.model_size import check_model_size
from runtime.processes import (
    check_tasks,
    cluster_plugins,
    configure_performance,
    filter_warnings,
    is_peer_failure,
    rank_prefix,
    show_lightning_output,
    shutdown_distributed,
)
from runtime.resume import check_resumed
from runtime.run_folder import locked_run_dir, resolve_run_dir
from runtime.threads import check_threads, counted, set_for_training

# Options that say nothing about the run
LAUNCH_ONLY_OPTIONS = ("config", "run_dir", "resume", "allow_changes")


def build(args: Namespace) -> tuple[ImageData, Model]:
    """The data, read and checked, and the model that fits it."""
    options = args.data.as_dict()
    data = DATAMODULES[options.pop("name")](**options)
    data.prepare_data()
    data.setup()
    data.run_seed = args.seed
    options = args.model.as_dict()
    kind = MODELS[options.pop("name")]
    device = "cuda" if torch.cuda.is_available() and args.trainer.accelerator != "cpu" else "cpu"
    check_model_size(kind, data, options, device)
    seed_everything(args.seed, verbose=False)
    model = kind.for_data(data, **options)
    if args.compile:
        check_compiler(device)
        # with the noise of the eager loss, so that one can be held against the other
        model.loss = torch.compile(model.loss, options={"fallback_random": True})
    return data, model


def make_trainer(
    args: Namespace, model: Model, steps_per_epoch: int, folder: Path, start: callbacks.RunStart
) -> Trainer:
    """The Trainer, with the callbacks of this run; ValueError for what it or the model cannot do."""
    options = args.trainer.as_dict()
    if options["accelerator"] == "mps":
        raise ValueError("mps has no float64, in which likelihoods are summed: use --trainer.accelerator cpu.")
    if options["precision"] in ("16-true", "bf16-true"):
        raise ValueError(f"{options['precision']} has too few digits for likelihoods: use 16-mixed or bf16-mixed.")
    if options["strategy"] not in ("auto", "ddp"):
        raise ValueError(f"--trainer.strategy must be auto or ddp; got {options['strategy']}.")
    model.check_limits(options["max_epochs"], options["max_steps"], options["max_time"])
    bar = options.pop("enable_progress_bar") is not False
    interval = options.pop("log_every_n_steps")
    stopping = [] if args.early_stopping is None else [callbacks.EarlyStopping(args.early_stopping)]
    watching = [*callbacks.for_model(model, args.callbacks), *([callbacks.Progress()] if bar else [])]
    try:
        trainer = Trainer(
            **options,
            callbacks=[
                start,
                callbacks.StepNoise(args.seed),
                callbacks.Divergence(),
                *watching,
                *stopping,
                callbacks.Interruption(),
                callbacks.RunCheckpoint(folder, args.seed, args.save_every_steps, args.save_every_minutes),
            ],
            logger=MetricsCSV(folder),
            plugins=[callbacks.FileIO(), *cluster_plugins()],
            default_root_dir=folder,
            enable_progress_bar=False,  # ours shows the whole run, not an epoch
            enable_autolog_hparams=False,  # `start` logs the whole configuration
            sync_batchnorm=True,  # on several GPUs; it does nothing on one
        )
    except (TypeError, ImportError) as error:  # devices that the accelerator does not have, packages not installed
        raise ValueError(str(error)) from error
    trainer.log_every_n_steps = interval or min(50, max(1, steps_per_epoch // trainer.world_size))
    if trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu" and model.has_batch_norm:
        raise ValueError(
            "Batch norm on several processes needs GPUs, to see all of a batch: add --model.batch_norm false, or use "
            "--trainer.devices 1."
        )
    return trainer


def configure_steps_per_call(trainer: Trainer, data: ImageData, model: Model, size: int) -> None:
    """Lets each call of the trainer take so many steps, where nothing is asked for that needs a call for each.

    Raises:
        ValueError: It is no number of steps.
    """
    if size < 1:
        raise ValueError(f"--steps_per_call must be at least 1; got {size}.")
    needing = {
        "--trainer.devices": trainer.world_size > 1,
        "--trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
        "--trainer.gradient_clip_val": trainer.gradient_clip_val is not None,
        "--trainer.precision 16-mixed": trainer.precision == "16-mixed",  # scales gradients
        "--trainer.limit_train_batches": trainer.limit_train_batches != 1.0,
        "--trainer.val_check_interval": trainer.val_check_interval != 1.0,
    }
    if size > 1 and any(needing.values()):
        names = ", ".join(name for name, needed in needing.items() if needed)
        print(f"warning: one step per call, for the sake of {names}.", file=sys.stderr)
        size = 1
    data.steps_per_call, model.automatic_optimization = size, size == 1
    trainer.log_every_n_steps = max(1, trainer.log_every_n_steps // size)


def count_parameters(model: Model) -> int:
    """The number of all weights of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def write_records(
    trainer: Trainer, data: ImageData, model: Model, config: dict, resume: Path | None, wandb: WandbRun | None
) -> None:
    """Writes the complete configuration into the run folder and tells the loggers, once the run is accepted.

    W&B, which may still refuse the run, comes first.
    """
    if wandb is not None:
        trainer.loggers = [*trainer.loggers, wandb]
    if not trainer.is_global_zero:
        return
    if wandb is not None:
        wandb.open()
    folder = Path(trainer.default_root_dir)
    with atomic_write(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(config, sort_keys=False).encode())
    facts = {"protocol": data.protocol, "labels_hash": data.labels_hash, "parameters": count_parameters(model)}
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.keep_before(read_checkpoint(resume)["global_step"] if resume else 0)
        logger.log_hyperparams(flat(config) | facts)


def announce(trainer: Trainer, data: ImageData, model: Model, config: dict) -> None:
    """Prints what is to be trained on what, and where its files go."""
    if not trainer.is_global_zero:
        return
    labels = f", labels {data.labels_hash}" if data.labels_hash else ""
    print(
        f"{config['model']['name']} on {config['data']['name']}, protocol {data.protocol}{labels}: "
        f"{count_parameters(model):,} parameters, {len(data.train.y):,} training images, {counted(config['threads'])}, "
        f"run folder {trainer.default_root_dir}",
        flush=True,
    )


def evaluate_best(trainer: Trainer, args: Namespace, data: ImageData, start: callbacks.RunStart) -> int:
    """Evaluates the best checkpoint on the test images, for the table and W&B, and returns the exit status.

    Where it has been evaluated already, by the same command that was given again, the result stands.

    Raises:
        ValueError: No step was trained, now or before.
    """
    if trainer.global_step == 0:
        raise ValueError("Nothing was trained: raise --trainer.max_epochs, max_steps or limit_train_batches above 0.")
    start.write_once(trainer)
    checkpoints = trainer.checkpoint_callback
    path = checkpoints.best_model_path or checkpoints.last_model_path  # without validation there is no best
    path = Path(trainer.strategy.broadcast(path))
    result = trainer.strategy.broadcast(existing_result(path, args.num_samples, args.limit, data))
    files = EvaluationFiles()
    if args.num_samples and result is None:
        device, samples = str(trainer.strategy.root_device), args.num_samples
        checkpoint = read_checkpoint(path)
        wanted = EvaluationConfig(
            samples, args.limit, figures=args.callbacks, style=trainer.figure_style, threads=args.threads
        )
        result = evaluate_checkpoint(checkpoint, path, data, wanted, device, files)
    if not trainer.is_global_zero:
        return 0
    if result is not None:
        print(f"\n{tables(with_comparisons([result], [read_checkpoint(path)], files.log_px), terminal())}")
    summary = {} if result is None else result.to_dict()
    close_wandb(trainer, {f"test/{key}": value for key, value in summary.items()})
    print(f"Run folder: {trainer.default_root_dir}")
    for error in files.unsaved.values():
        print(
            f"error: the result is printed above, but not saved: {explain(error, {}, [])} The same command with "
            "--resume auto saves it.",
            file=sys.stderr,
        )
        return 1
    if result is not None and result.nll is None and result.loss is None:
        print("The model has diverged: its likelihood is not finite. Try a lower --model.lr.", file=sys.stderr)
        return 1
    return 0


def has_begun(trainer: Trainer | None) -> bool:
    """Whether training has taken up its first step, or a step after those of an earlier start."""
    return trainer is not None and trainer.checkpoint_callback.began


def report_stop(error: Exception, trainer: Trainer | None, argv: list[str]) -> int:
    """Says why training has ended and how to go on, and returns the exit status: 128 + the signal's number, or 1."""
    lost, failure = is_peer_failure(error), explain_failure(error)
    if not lost and not failure and not isinstance(error, Interrupted | Diverged | OSError):
        raise error  # no mistake in the options
    if trainer is None:
        print(f"{rank_prefix()}error: {failure or error}", file=sys.stderr)
        return 2
    folder, last = trainer.default_root_dir, trainer.checkpoint_callback.last_model_path
    if isinstance(error, Interrupted | Diverged) and not trainer.is_global_zero:
        return 0  # all processes stop together, and the first one speaks for them
    if lost:
        print(f"{rank_prefix()}error: Another process of this run has ended: see what it has said.", file=sys.stderr)
    elif failure:
        print(f"{rank_prefix()}error: {failure}", file=sys.stderr)
    elif isinstance(error, OSError):
        print(f"{rank_prefix()}error: {explain(error, {}, [])} The checkpoints are as they were.", file=sys.stderr)
    elif isinstance(error, Diverged):
        kept = f"; {last} holds the last finite state" if last else ""
        print(f"error: {error}: the model has diverged. Try a lower --model.lr{kept}.", file=sys.stderr)
    elif last:
        more = [
            *(() if "--run_dir" in argv else ("--run_dir", str(folder))),
            *(() if "auto" in argv else ("--resume", "auto")),
        ]
        command = shlex.join(["python", "train.py", *argv, *more])
        print(f"Stopped by {error} after step {trainer.global_step}. Go on with: {command}", file=sys.stderr)
    else:
        print(f"Stopped by {error} after step {trainer.global_step}: there is no checkpoint yet.", file=sys.stderr)
    status = 128 + error.number if isinstance(error, Interrupted) else 1 if has_begun(trainer) else 2
    close_wandb(trainer, status=status)
    return status


def main(argv: list[str] | None = None) -> int:
    prepare_streams()
    configure_performance()
    filter_warnings()
    argv = sys.argv[1:] if argv is None else argv
    names, known, trainer = DEFAULTS, [], None
    try:
        names, flags = split_component_flags(argv)
        parser = build_parser(names)
        known = option_names(parser)
        args = expand_paths(parser.parse_args(flags))
        check_numbers(args.num_samples, args.limit, least=0)
        style = check_style(FigureStyle(args.figure_format, args.figure_dpi))
        check_tasks(args.trainer.devices, args.trainer.num_nodes)
        check_trainer(args.trainer)
        show_lightning_output(args.trainer.profiler is not None, args.trainer.enable_model_summary is True)
        check_threads(args.threads)
        config = yaml.safe_load(parser.dump(args, skip_unset=False))
        config = {key: value for key, value in config.items() if key not in LAUNCH_ONLY_OPTIONS}
        folder, resume = resolve_run_dir(args)
        data, model = build(args)
        is_default = args.run_dir is None and resume is None
        with locked_run_dir(folder, is_default, lambda: has_begun(trainer)) as folder:
            mode = wandb_mode(args.wandb)
            wandb = WandbRun(config, folder, offline=mode == "offline") if mode != "off" else None
            start = callbacks.RunStart(lambda trainer: write_records(trainer, data, model, config, resume, wandb))
            trainer = make_trainer(args, model, len(data.train.y) // data.batch_size, folder, start)
            trainer.figure_style = style
            check_batch_norm(model, data, trainer.world_size)
            configure_steps_per_call(trainer, data, model, args.steps_per_call)
            if args.early_stopping is not None:
                check_validation(trainer, len(data.val.y))
            if resume:
                check_resumed(resume, args, data, model, trainer)
            recorded = read_checkpoint(resume).get("threads") if resume else None
            processes = trainer.world_size // trainer.num_nodes
            config["threads"] = set_for_training(args.threads, recorded, model, data, processes)
            announce(trainer, data, model, config)
            trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
            return evaluate_best(trainer, args, data, start)
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        if has_begun(trainer):
            return report_stop(error, trainer, argv)
        close_wandb(trainer, status=2)
        print(f"{rank_prefix()}error: {explain(error, names, known)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as error:  # with which Lightning ends after a Ctrl-C before the first step
        if isinstance(error, SystemExit) and (trainer is None or not trainer.interrupted):
            raise
        when = (
            "after training: the same command with --resume auto evaluates"
            if has_begun(trainer)
            else "before the first step"
        )
        print(f"Stopped {when}.", file=sys.stderr)
        return 130
    except (Interrupted, Diverged, RuntimeError, MemoryError) as error:
        return report_stop(error, trainer, argv)


if __name__ == "__main__":
    gc.freeze()  # and thawed at once they count as old, so that the first search leaves them out too;
    gc.unfreeze()  # if they stayed frozen, libraries would report them as leaks when the process ends
    gc.enable()
    sys.exit(shutdown_distributed(main()))
