"""Which option somebody meant who named one that does not exist."""

import difflib

SIMILAR = 0.75  # share of letters in common from which a name is taken for a slip of the finger
# What other programs call these options, the last part of the name; the first that exists is meant
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
    ("wandb_project", "use_wandb", "log_wandb", "logger"): ("wandb",),
    ("amp", "fp16", "bf16", "half"): ("trainer.precision", "precision"),
    ("clip", "grad_clip", "clip_grad", "gradient_clip", "max_grad_norm"): ("trainer.gradient_clip_val",),
    ("accumulate", "grad_accum", "gradient_accumulation_steps"): ("trainer.accumulate_grad_batches",),
    ("progress_bar", "progress"): ("trainer.enable_progress_bar",),
    ("torch_compile",): ("compile",),
}
# What has no option here
NONE_NEEDED = {
    ("workers", "num_workers", "n_workers", "pin_memory"): "batches are cut from images in memory, without workers",
    ("weight_decay", "momentum", "optimizer", "optimiser", "optim"): "the optimiser is Adam without weight decay",
}


def suggest(option: str, known: list[str]) -> str | None:
    """The option that was meant by one that does not exist; nothing where there is no good guess.

    Args:
        option: Without dashes in front.
        known: All options that there are, without dashes.
    """
    name = option.lower().replace("-", "_")
    section, _, leaf = name.rpartition(".")
    leaves: dict[str, list[str]] = {}
    for other in known:
        leaves.setdefault(other.rpartition(".")[2].lower(), []).append(other)
    for exact in (name, leaf):
        if exact in leaves:  # in another section, or in other letters
            return min(leaves[exact], key=lambda other: other.rpartition(".")[0] != section)
        for synonyms, meant in SYNONYMS.items():
            if exact in synonyms and (found := [other for other in meant if other in known]):
                return found[0]
    if close := difflib.get_close_matches(name, known, n=1, cutoff=SIMILAR):
        close_leaf = close[0].rpartition(".")[2]
        if difflib.SequenceMatcher(None, leaf, close_leaf).ratio() >= SIMILAR:  # and not just of the same section
            return close[0]
    if close := difflib.get_close_matches(leaf, leaves, n=1, cutoff=SIMILAR):
        return leaves[close[0]][0]
    return None


def why_not(option: str) -> str | None:
    """Why there is no such option, where other programs have one."""
    leaf = option.lower().replace("-", "_").rpartition(".")[2]
    return next((why for names, why in NONE_NEEDED.items() if leaf in names), None)


def in_other_letters(table: dict, name: str) -> str | None:
    """The entry of a registry whose name is this one but for capitals, dashes and underscores."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    return next((other for other in table if plain(other) == plain(name)), None)
