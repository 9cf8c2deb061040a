"""Suggestions for options that do not exist."""

import difflib

MIN_SIMILARITY = 0.75  # ratio of difflib from which a name is regarded as a typing error
# Names in other programs (last part) -> candidates here; the first that exists is suggested.
SYNONYMS = {
    ("learning_rate", "learningrate", "learn_rate", "base_lr"): ("model.lr",),
    ("epochs", "epoch", "n_epochs", "num_epochs", "nepochs", "max_epoch", "num_train_epochs"): ("trainer.max_epochs",),
    ("steps", "iterations", "iters", "num_steps", "max_iters", "max_iter"): ("trainer.max_steps",),
    ("bs", "batchsize", "batch", "train_batch_size", "minibatch"): ("data.batch_size",),
    ("gpus", "gpu", "ngpu", "n_gpus", "num_gpus"): ("trainer.devices", "device"),
    ("device", "cuda", "cpu", "accel"): ("trainer.accelerator", "device"),
    ("nodes", "nnodes"): ("trainer.num_nodes",),
    ("latent_dim", "latent_dims", "latent_size", "latents", "num_latents", "n_latents", "z", "zdim", "nz", "dim_z"): (
        "model.z_dim",
    ),
    ("hidden_dim", "hidden_dims", "hidden_size", "hidden_sizes", "layers", "h_dim", "width"): ("model.hidden",),
    ("kl_weight", "kld_weight", "kl_coef", "kl"): ("model.beta",),
    ("warmup", "kl_warmup", "warmup_epochs", "kl_anneal", "anneal_epochs"): ("model.beta_warmup",),
    ("cycles", "num_cycles", "n_cycles", "cyclical"): ("model.beta_cycles",),
    ("free_nats", "kl_min", "lambda_kl"): ("model.free_bits",),
    ("ema_decay", "use_ema", "polyak"): ("ema",),
    ("optimiser", "optim", "opt"): ("model.optimizer",),
    ("k", "iw_samples", "importance_samples", "n_samples", "samples", "num_importance_samples"): (
        "model.num_samples",
        "num_samples",
    ),
    ("sigma", "std", "variance"): ("model.scale",),
    ("act", "nonlinearity"): ("model.activation",),
    ("bn", "batchnorm"): ("model.batch_norm",),
    ("loss",): ("model.objective",),
    ("dataset", "data_set", "data_name"): ("data",),
    ("arch", "architecture", "net", "model_name", "model_type"): ("model",),
    ("data_dir", "data_root", "data_path", "datadir", "dataroot", "data_folder"): ("data.root",),
    ("labels", "n_labels", "num_labelled", "num_labeled"): ("data.num_labels",),
    ("out", "output", "output_dir", "out_dir", "outdir", "logdir", "log_dir", "save_dir", "rundir", "dir", "folder"): (
        "run_dir",
        "report",
    ),
    ("checkpoint", "ckpt", "ckpt_path", "checkpoint_path", "resume_from", "resume_from_checkpoint", "restart"): (
        "resume",
        "checkpoints",
    ),
    ("conf", "cfg", "yaml", "config_file"): ("config",),
    ("random_seed", "manual_seed"): ("seed",),
    ("use_wandb", "log_wandb", "logger", "wandb_mode"): ("wandb",),
    ("wandb_project", "project_name"): ("wandb.project",),
    ("wandb_entity",): ("wandb.entity",),
    ("wandb_tags",): ("wandb.tags",),
    ("wandb_notes",): ("wandb.notes",),
    ("amp", "fp16", "bf16", "half"): ("trainer.precision", "precision"),
    ("clip", "grad_clip", "clip_grad", "gradient_clip", "max_grad_norm"): ("trainer.gradient_clip_val",),
    ("accumulate", "grad_accum", "gradient_accumulation_steps"): ("trainer.accumulate_grad_batches",),
    ("progress_bar", "progress"): ("trainer.enable_progress_bar",),
    ("torch_compile",): ("compile",),
}
# Options of other programs that do not exist here -> reason
MISSING_OPTIONS = {
    ("workers", "num_workers", "n_workers", "pin_memory"): "batches are sliced from images in memory, without workers",
    ("momentum",): "the optimizer is Adam or AdamW",
}


def suggest(option: str, known: list[str]) -> str | None:
    """Return the existing option that is most likely meant by an unknown one, or None.

    Args:
        option: The unknown option, without leading dashes.
        known: All existing options, without leading dashes.
    """
    name = option.lower().replace("-", "_")
    section, _, leaf = name.rpartition(".")
    leaves: dict[str, list[str]] = {}
    for other in known:
        leaves.setdefault(other.rpartition(".")[2].lower(), []).append(other)
    for exact in (name, leaf):
        if exact in leaves:  # in another section or another case
            return min(leaves[exact], key=lambda other: other.rpartition(".")[0] != section)
        for synonyms, candidates in SYNONYMS.items():
            if exact in synonyms and (existing := [other for other in candidates if other in known]):
                return existing[0]
    if close := difflib.get_close_matches(name, known, n=1, cutoff=MIN_SIMILARITY):
        close_leaf = close[0].rpartition(".")[2]
        # The last parts must be similar too: a common section alone is no match.
        if difflib.SequenceMatcher(None, leaf, close_leaf).ratio() >= MIN_SIMILARITY:
            return close[0]
    if close := difflib.get_close_matches(leaf, leaves, n=1, cutoff=MIN_SIMILARITY):
        return leaves[close[0]][0]
    return None


def reason_for_missing_option(option: str) -> str | None:
    """Return why an option that is common in other programs does not exist here, or None."""
    leaf = option.lower().replace("-", "_").rpartition(".")[2]
    return next((reason for names, reason in MISSING_OPTIONS.items() if leaf in names), None)


def match_ignoring_case(registry: dict, name: str) -> str | None:
    """Return the entry of a registry that equals `name` up to case, dashes and underscores, or None."""

    def normalise(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    return next((other for other in registry if normalise(other) == normalise(name)), None)
