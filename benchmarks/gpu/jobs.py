"""The jobs of `python -m benchmarks.gpu` in their order, the most important ones of each group first."""

from benchmarks.gpu.checks import gpu_tests, resume, signalled, torchrun
from benchmarks.gpu.estimates import ais, evaluation, nll
from benchmarks.gpu.session import Job
from benchmarks.gpu.training import rate, raw_loop, with_lightning, without_graph

TESTS, VAE_TRAINING, OTHER_TRAINING = "Tests marked gpu", "Training, VAE on MNIST", "Training, other models"
LIKELIHOODS, RESUMING, TORCHRUN = "Likelihoods", "Resuming", "torchrun"
BF16 = ("--trainer.precision", "bf16-mixed")
ONE, TEN = without_graph(1), without_graph(10)
IWAE = ("--model", "IWAE", "--model.num_samples", "50")
M2 = ("--model", "M2", "--data.num_labels", "100")


def vae(name: str, seconds: float, measure, **options: bool) -> Job:
    """Return a job of the group of VAE training."""
    return Job(VAE_TRAINING, name, seconds, measure, **options)


def batch_of(size: int, epochs: int, slow_epochs: int) -> list[Job]:
    """Return the jobs for one batch size. Without a GPU all have the same size, and one of them is enough.

    Args:
        size: Images per batch.
        epochs: Epochs of the fast path.
        slow_epochs: Epochs of the paths without a CUDA graph.
    """
    jobs = [
        vae(f"train.py, batch {size}", 15, rate(batch=size, epochs=epochs)),
        vae(f"raw loop, batch {size}, CUDA graph", 5, raw_loop(size, graph=True)),
        vae(f"train.py, batch {size}, S=1", 15, rate(*ONE, batch=size, epochs=slow_epochs)),
        vae(f"raw loop, batch {size}", 5, raw_loop(size, graph=False)),
    ]
    return [job._replace(is_rehearsed=size == 128) for job in jobs]


# Measurements for which every run has time, and all checks
REQUIRED = [
    Job(TESTS, "tests", 90, gpu_tests, is_check=True),
    *batch_of(128, 12, 3),
    vae("train.py, batch 128, S=10, no graph", 10, rate(*TEN, batch=128, epochs=3)),
    vae("Lightning + torchvision, batch 128", 10, with_lightning(128, workers=0)),
    *batch_of(1024, 20, 5),
    *batch_of(4096, 30, 10),
    vae("train.py, batch 4096, bf16", 8, rate(*BF16, batch=4096, epochs=30)),
    Job(OTHER_TRAINING, "train.py, IWAE K=50, batch 128", 15, rate(*IWAE, batch=128, epochs=4)),
    Job(OTHER_TRAINING, "train.py, M2, 100 labels, batch 200", 15, rate(*M2, batch=200, epochs=4)),
    Job(LIKELIHOODS, "NLL, fp32", 12, nll("fp32")),
    Job(LIKELIHOODS, "NLL, bf16", 12, nll("bf16")),
    Job(LIKELIHOODS, "evaluate.py, bf16, whole command", 15, evaluation("--precision", "bf16")),
    Job(LIKELIHOODS, "AIS", 75, ais),
    Job(RESUMING, "2 + 2 epochs = 4 epochs, S=1", 10, resume(*ONE), is_check=True),
    Job(RESUMING, "2 + 2 epochs = 4 epochs, default", 10, resume(), is_check=True),
    Job(RESUMING, "SIGUSR1 in mid-epoch, S=1", 25, signalled(*ONE, batch=128, save_every=50), is_check=True),
    Job(TORCHRUN, "one process", 20, torchrun, is_check=True),
    Job(RESUMING, "SIGUSR1 in mid-epoch, default", 25, signalled(batch=16, save_every=500), is_check=True),
]
# Measurements that are run last, if time is left
EXTRAS = [
    vae("train.py, batch 128, compiled", 60, rate("--compile", batch=128, epochs=12), is_rehearsed=False),
    vae("train.py, batch 128, bf16", 10, rate(*BF16, batch=128, epochs=12)),
    vae("raw loop, batch 4096, CUDA graph, bf16", 5, raw_loop(4096, graph=True, bf16=True)),
    vae("train.py, batch 4096, TF32", 8, rate(batch=4096, epochs=30, tf32=True)),
    vae("raw loop, batch 4096, CUDA graph, TF32", 5, raw_loop(4096, graph=True, tf32=True)),
    vae("train.py, batch 1024, S=10, no graph", 10, rate(*TEN, batch=1024, epochs=5), is_rehearsed=False),
    vae("train.py, batch 4096, S=10, no graph", 10, rate(*TEN, batch=4096, epochs=10), is_rehearsed=False),
    Job(LIKELIHOODS, "NLL, fp32, TF32", 10, nll("fp32", tf32=True)),
    Job(LIKELIHOODS, "NLL, bf16, compiled", 40, nll("bf16", compiled=True)),
    vae("train.py, batch 1024, bf16, compiled", 60, rate(*BF16, "--compile", batch=1024, epochs=20)),
    vae("Lightning + torchvision, batch 128, 8 workers", 15, with_lightning(128, workers=8)),
]
JOBS = [*REQUIRED, *EXTRAS]
