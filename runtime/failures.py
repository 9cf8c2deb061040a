"""One-sentence explanations of errors of torch that a user can fix."""

import torch

OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "invalid buffer size",
    "bad allocation",
)
COMPILER_MODULES = ("torch._dynamo", "torch._inductor", "triton")
BATCH_NORM_MESSAGE = (
    "Batch norm needs at least two images per batch: raise --data.batch_size, or use --model.batch_norm false."
)


def explain_failure(error: BaseException) -> str | None:
    """Return what went wrong and what to do, on one line; None for an error that is a bug of this program."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text.lower() for words in OUT_OF_MEMORY_TEXTS)
    ):
        return (
            "Out of memory: lower --data.batch_size, the samples per image (--model.num_samples) or the sizes of the "
            "model (--model.hidden, --model.z_dim)."
        )
    if type(error).__module__.startswith(COMPILER_MODULES):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        return f"--compile has failed ({reason}): install a C++ compiler such as g++, or leave --compile out."
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in text:
        return BATCH_NORM_MESSAGE
    if isinstance(error, RuntimeError) and ("CUDA error" in text or "No CUDA GPUs" in text or "NVIDIA driver" in text):
        return f"The GPU cannot be used ({text.split('. ')[0][:200]}): use --trainer.accelerator cpu."
    if isinstance(error, RuntimeError) and "returned nan values in its" in text:  # of --trainer.detect_anomaly
        return f"{text} Try a lower --model.lr."
    return None


def check_batch_norm(model, data, world_size: int) -> None:
    """Raise ValueError if training batches hold one image, for which the batch norm of an MLP is undefined."""
    size = min(data.batch_size, len(data.train.y)) * world_size
    if size == 1 and model.has_batch_norm and any(isinstance(layer, torch.nn.BatchNorm1d) for layer in model.modules()):
        raise ValueError(BATCH_NORM_MESSAGE)


def check_compiler(device: str) -> None:
    """Compile a small function, to detect a missing or broken compiler before training.

    Args:
        device: The device type of the model.

    Raises:
        ValueError: Compiling failed.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(4, device=device))
    except Exception as error:  # from torch's compiler, the C++ compiler or the disk
        reason = explain_failure(error) or f"--compile has failed ({' '.join(str(error).split())[:200]}): leave it out."
        raise ValueError(reason) from error
    finally:
        torch.compiler.reset()
