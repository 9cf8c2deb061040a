"""Train a model and report its test likelihood: `python train.py --model VAE --data MNISTSubset`."""

import gc
import shlex
import sys
from argparse import ArgumentError
from itertools import pairwise
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # imports allocate 500k long-lived objects; skipping garbage collection saves 0.5 s of start-up

import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import callbacks
from callbacks.early_stopping import check_validation
from callbacks.graceful_stop import Interrupted
from callbacks.loggers import MetricsCSV, WandbRun, close_wandb, flatten
from callbacks.nan_guard import Diverged
from callbacks.wandb_environment import mode as wandb_mode
from cli.errors import explain_option_error
from cli.streams import prepare_streams
from cli.terminal import terminal
from cli.train_options import (
    DEFAULTS,
    build_parser,
    check_numbers,
    check_trainer,
    check_wandb,
    expand_paths,
    option_names,
    split_component_flags,
)
from datamodules import DATAMODULES, ImageData
from evaluation.comparisons import with_comparisons
from evaluation.evaluate import EvaluationConfig, evaluate_checkpoint
from evaluation.result_files import EvaluationFiles, existing_result
from evaluation.tables import tables
from evaluation.wandb_outputs import RunOutputs
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
from runtime.resume import check_resumed, options_from_before
from runtime.run_folder import locked_run_dir, resolve_run_dir
from runtime.steps_per_call import check_steps_per_call, configure_steps_per_call, steps_per_call_text
from runtime.threads import check_threads, set_for_training, thread_count_text

# Options that affect only the current start; they are not stored in config.yaml
LAUNCH_ONLY_OPTIONS = ("config", "run_dir", "resume", "allow_changes")


def check_options(args: Namespace) -> None:
    """Raise ValueError for options that are invalid for any model and data set."""
    check_numbers(args.num_samples, args.limit, least=0)
    check_style(FigureStyle(args.figure_format, args.figure_dpi))
    check_tasks(args.trainer.devices, args.trainer.num_nodes)
    check_trainer(args.trainer)
    check_threads(args.threads)
    check_steps_per_call(args.steps_per_call)
    check_wandb(args.wandb)


def load_data(args: Namespace) -> ImageData:
    """Return the data that the options describe, loaded."""
    data_options = args.data.as_dict()
    data = DATAMODULES[data_options.pop("name")](**data_options)
    data.prepare_data()
    data.setup()
    return data


def build_model(args: Namespace, data: ImageData) -> Model:
    """Return a new model for these data."""
    model_options = args.model.as_dict()
    model_class = MODELS[model_options.pop("name")]
    device = "cuda" if torch.cuda.is_available() and args.trainer.accelerator != "cpu" else "cpu"
    check_model_size(model_class, data, model_options, device)
    seed_everything(args.seed, verbose=False)
    model = model_class.for_data(data, **model_options)
    if args.compile:
        if model.takes_own_steps:
            raise ValueError(
                f"--compile has no effect on {type(model).__name__}, which has several losses. Leave it out."
            )
        check_compiler(device)
        # fallback_random uses the same noise as the eager loss, so that both can be compared.
        model.loss = torch.compile(model.loss, options={"fallback_random": True})
    return model


def build(args: Namespace) -> tuple[ImageData, Model]:
    """Return the loaded data and a model for them."""
    data = load_data(args)
    data.run_seed = args.seed
    return data, build_model(args, data)


def make_trainer(
    args: Namespace, model: Model, steps_per_epoch: int, folder: Path, start: callbacks.RunStart
) -> Trainer:
    """Return the Trainer with the callbacks of this run.

    Raises:
        ValueError: If Lightning or the model does not support an option.
    """
    options = args.trainer.as_dict()
    if options["accelerator"] == "mps":
        raise ValueError("mps does not support float64, which likelihoods need: use --trainer.accelerator cpu.")
    if options["precision"] in ("16-true", "bf16-true"):
        raise ValueError(f"{options['precision']} is too imprecise for likelihoods: use 16-mixed or bf16-mixed.")
    if options["strategy"] not in ("auto", "ddp"):
        raise ValueError(f"--trainer.strategy must be auto or ddp; got {options['strategy']}.")
    model.check_limits(options["max_epochs"], options["max_steps"], options["max_time"])
    show_progress = options.pop("enable_progress_bar") is not False
    log_interval = options.pop("log_every_n_steps")
    early_stopping = [] if args.early_stopping is None else [callbacks.EarlyStopping(args.early_stopping)]
    average = [] if args.ema is None else [callbacks.EMA(args.ema)]
    progress = [callbacks.Progress()] if show_progress else []
    try:
        trainer = Trainer(
            **options,
            callbacks=[
                start,
                callbacks.StepRNG(args.seed),
                callbacks.NaNGuard(),
                *average,
                *callbacks.for_model(model, args.callbacks),
                *progress,
                *early_stopping,
                callbacks.GracefulStop(),
                callbacks.RunCheckpoint(folder, args.seed, args.save_every_steps, args.save_every_minutes),
            ],
            logger=MetricsCSV(folder),
            plugins=[callbacks.FileIO(), *cluster_plugins()],
            default_root_dir=folder,
            enable_progress_bar=False,  # callbacks.Progress shows the whole run instead of one epoch
            enable_autolog_hparams=False,  # `start` logs the complete configuration
            sync_batchnorm=True,  # has an effect on several GPUs only
        )
    except (TypeError, ImportError) as error:  # devices that do not exist, packages that are not installed
        raise ValueError(str(error)) from error
    trainer.log_every_n_steps = log_interval or min(50, max(1, steps_per_epoch // trainer.world_size))
    if trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu" and model.has_batch_norm:
        raise ValueError(
            "Batch norm on several processes requires GPUs, to synchronise its statistics: add --model.batch_norm "
            "false, or use --trainer.devices 1."
        )
    return trainer


def check_own_steps(trainer: Trainer, model: Model) -> None:
    """Raise ValueError for options that do not apply to a model that takes its optimizer steps itself."""
    if not model.takes_own_steps:
        return
    unsupported = {
        "--trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
        "--trainer.gradient_clip_val": trainer.gradient_clip_val is not None,
        "--trainer.precision 16-mixed (use bf16-mixed)": trainer.precision == "16-mixed",  # scales gradients
    }
    if names := [name for name, is_set in unsupported.items() if is_set]:
        raise ValueError(
            f"Not supported by {type(model).__name__}, which has several optimizers: {', '.join(names)}. Leave it out."
        )


def choose_threads(args: Namespace, trainer: Trainer, data: ImageData, model: Model, resume: Path | None) -> int:
    """Set the number of CPU threads, by default that of the resumed run, and return it."""
    stored_threads = read_checkpoint(resume).get("threads") if resume else None
    processes_per_node = trainer.world_size // trainer.num_nodes
    return set_for_training(args.threads, stored_threads, model, data, processes_per_node)


def count_parameters(model: Model) -> int:
    """Return the number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def write_records(
    trainer: Trainer, data: ImageData, model: Model, config: dict, resume: Path | None, wandb: WandbRun | None
) -> None:
    """Write config.yaml and log the configuration, once training is known to start.

    W&B is opened first, since it may still refuse the run.
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
    if wandb is not None:
        facts["images_hash"] = data.images_hash
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.drop_rows_from(read_checkpoint(resume)["global_step"] if resume else 0)
        logger.log_hyperparams(flatten(config) | facts)


def print_summary(trainer: Trainer, data: ImageData, model: Model, config: dict) -> None:
    """Print model, data, number of parameters, threads, steps per call and run folder."""
    if not trainer.is_global_zero:
        return
    labels = f", labels {data.labels_hash}" if data.labels_hash else ""
    data_name = " ".join(filter(None, [config["data"]["name"], data.variant]))
    print(
        f"{config['model']['name']} on {data_name}, protocol {data.protocol}{labels}: "
        f"{count_parameters(model):,} parameters, {len(data.train.y):,} training images, "
        f"{thread_count_text(config['threads'])}, {steps_per_call_text(data.steps_per_call, model)}, "
        f"run folder {trainer.default_root_dir}",
        flush=True,
    )


def evaluate_trained(trainer: Trainer, args: Namespace, data: ImageData, start: callbacks.RunStart) -> int:
    """Evaluate the best or the last checkpoint on the test images, print and log the result; return the exit status.

    An existing result with the same settings is used again.

    Raises:
        ValueError: If no step has been trained.
    """
    if trainer.global_step == 0:
        raise ValueError("Nothing was trained: raise --trainer.max_epochs, max_steps or limit_train_batches above 0.")
    start.write_once(trainer)
    checkpoints = trainer.checkpoint_callback
    # there is no best one without validation
    best = checkpoints.best_model_path if args.evaluate == "best" else None
    path = best or checkpoints.last_model_path
    path = Path(trainer.strategy.broadcast(path))
    result = trainer.strategy.broadcast(existing_result(path, args.num_samples, args.limit, data))
    files = EvaluationFiles()
    if args.num_samples and result is None:
        settings = EvaluationConfig(
            args.num_samples, args.limit, figures=args.callbacks, style=trainer.figure_style, threads=args.threads
        )
        device = str(trainer.strategy.root_device)
        result = evaluate_checkpoint(read_checkpoint(path), path, data, settings, device, files)
    if not trainer.is_global_zero:
        return 0
    if result is not None:
        print(f"\n{tables(with_comparisons([result], [read_checkpoint(path)], files.log_px), terminal())}")
    summary = {} if result is None else result.to_dict()
    outputs = RunOutputs(
        best=Path(checkpoints.best_model_path or checkpoints.last_model_path),
        evaluated=path,
        folder=Path(trainer.default_root_dir),
        data=data,
        result=result,
        limit=args.limit,
        device=str(trainer.strategy.root_device),
    )
    close_wandb(trainer, {f"test/{key}": value for key, value in summary.items()}, outputs=outputs.writers())
    print(f"Run folder: {trainer.default_root_dir}")
    for error in files.unsaved.values():
        message = explain_option_error(error, {}, [])
        print(
            f"error: the result is printed above, but not saved: {message} "
            "The same command with --resume auto saves it.",
            file=sys.stderr,
        )
        return 1
    if result is not None and result.nll is None and result.loss is None:
        print("The model has diverged: its likelihood is not finite. Try a lower --model.lr.", file=sys.stderr)
        return 1
    return 0


def training_has_begun(trainer: Trainer | None) -> bool:
    """Return whether this start has begun its first training step."""
    return trainer is not None and trainer.checkpoint_callback.has_begun


def report_stop(error: Exception, trainer: Trainer | None, argv: list[str]) -> int:
    """Print why training has stopped and how to resume, and return the exit status.

    The status is 128 + signal number after a signal, 2 before the first training step, otherwise 1. Errors that are
    not foreseen are raised again.
    """
    peer_failed, failure = is_peer_failure(error), explain_failure(error)
    if not peer_failed and not failure and not isinstance(error, Interrupted | Diverged | OSError):
        raise error
    if trainer is None:
        print(f"{rank_prefix()}error: {failure or error}", file=sys.stderr)
        return 2
    if isinstance(error, Interrupted | Diverged) and not trainer.is_global_zero:
        return 0  # all ranks stop together, and rank 0 reports
    last = trainer.checkpoint_callback.last_model_path
    if peer_failed:
        print(f"{rank_prefix()}error: Another process of this run has ended: see its messages.", file=sys.stderr)
    elif failure:
        print(f"{rank_prefix()}error: {failure}", file=sys.stderr)
    elif isinstance(error, OSError):
        message = explain_option_error(error, {}, [])
        print(f"{rank_prefix()}error: {message} The checkpoints are unchanged.", file=sys.stderr)
    elif isinstance(error, Diverged):
        last_finite = f"; {last} holds the last finite state" if last else ""
        print(f"error: {error}: the model has diverged. Try a lower --model.lr{last_finite}.", file=sys.stderr)
    elif last:
        command = resume_command(argv, trainer.default_root_dir)
        print(f"Stopped by {error} after step {trainer.global_step}. Resume with: {command}", file=sys.stderr)
    else:
        print(f"Stopped by {error} after step {trainer.global_step}: there is no checkpoint yet.", file=sys.stderr)
    failure_status = 1 if training_has_begun(trainer) else 2
    status = 128 + error.number if isinstance(error, Interrupted) else failure_status
    close_wandb(trainer, status=status)
    return status


def resume_command(argv: list[str], run_dir: str) -> str:
    """Return the command that resumes the run that was started with the arguments `argv`."""
    command = ["python", "train.py", *argv]
    if not any(argument.partition("=")[0] == "--run_dir" for argument in argv):
        command += ["--run_dir", str(run_dir)]
    if "--resume=auto" not in argv and ("--resume", "auto") not in pairwise(argv):
        command += ["--resume", "auto"]
    return shlex.join(command)


def main(argv: list[str] | None = None) -> int:
    """Parse the options, build data, model and Trainer, train, evaluate, and return the exit status."""
    prepare_streams()
    configure_performance()
    filter_warnings()
    argv = sys.argv[1:] if argv is None else argv
    names, known, trainer = DEFAULTS, [], None  # set in the `try` block, used in error messages
    try:
        names, flags = split_component_flags(argv)
        parser = build_parser(names, flags)
        known = option_names(parser)
        args = expand_paths(parser.parse_args(flags))
        check_options(args)
        show_lightning_output(args.trainer.profiler is not None, args.trainer.enable_model_summary is True)
        config = yaml.safe_load(parser.dump(args, skip_unset=False))
        config = {key: value for key, value in config.items() if key not in LAUNCH_ONLY_OPTIONS}
        folder, resume = resolve_run_dir(args)
        if resume:
            given = parser.parse_args(flags, defaults=False).model
            for name, value in options_from_before(resume, args.model.name, given).items():
                args.model[name] = config["model"][name] = value
        data, model = build(args)
        is_default = args.run_dir is None and resume is None
        with locked_run_dir(folder, is_default, lambda: training_has_begun(trainer)) as folder:
            mode = wandb_mode(args.wandb.mode)
            wandb = WandbRun(config, folder, offline=mode == "offline") if mode != "off" else None
            start = callbacks.RunStart(lambda trainer: write_records(trainer, data, model, config, resume, wandb))
            trainer = make_trainer(args, model, len(data.train.y) // data.batch_size, folder, start)
            trainer.figure_style = FigureStyle(args.figure_format, args.figure_dpi)
            check_batch_norm(model, data, trainer.world_size)
            check_own_steps(trainer, model)
            intervals = [n for n in (args.save_every_steps, args.trainer.log_every_n_steps) if n]
            configure_steps_per_call(trainer, data, model, args.steps_per_call, intervals, args.cuda_graph)
            if args.early_stopping is not None:
                check_validation(trainer, len(data.val.y))
            if resume:
                check_resumed(resume, args, data, model, trainer)
            config["threads"] = choose_threads(args, trainer, data, model, resume)
            print_summary(trainer, data, model, config)
            trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
            model.graphed_step = None  # frees the memory of its CUDA graphs for the evaluation
            return evaluate_trained(trainer, args, data, start)
    except (ArgumentError, ValueError, OSError, MisconfigurationException) as error:
        if training_has_begun(trainer):
            return report_stop(error, trainer, argv)
        close_wandb(trainer, status=2)
        print(f"{rank_prefix()}error: {explain_option_error(error, names, known)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit) as error:  # Lightning exits with SystemExit after Ctrl-C
        if isinstance(error, SystemExit) and (trainer is None or not trainer.interrupted):
            raise
        when = (
            "after training: the same command with --resume auto evaluates"
            if training_has_begun(trainer)
            else "before the first step"
        )
        print(f"Stopped {when}.", file=sys.stderr)
        return 130
    except (Interrupted, Diverged, RuntimeError, MemoryError) as error:
        return report_stop(error, trainer, argv)


if __name__ == "__main__":
    # Freezing and unfreezing moves the objects of the imports to the oldest generation, so that the first collections
    # skip them. If they stayed frozen, libraries would report them as leaks at exit.
    gc.freeze()
    gc.unfreeze()
    gc.enable()
    sys.exit(shutdown_distributed(main()))
