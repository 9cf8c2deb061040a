"""Windows and macOS lack names that Linux has: nothing in this project needs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Hides from the standard library what the named system lacks, once the libraries that look for it have been imported,
# then imports every module of the project, shows the help of both scripts and trains
HIDE = """
import contextlib, ctypes, errno, importlib, os, pkgutil, signal, sys
import filelock, jsonargparse, matplotlib.figure, PIL.Image, pytorch_lightning, torch, torchmetrics, tqdm, yaml
import sklearn.datasets, torch.distributed

system, root = sys.argv[1:]
LACKING = {
    "win32": {
        signal: ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGALRM", "SIGQUIT", "SIGCHLD", "SIGCONT", "SIGPIPE",
                 "alarm", "setitimer", "pthread_kill", "sigwait"],
        os: ["fork", "forkpty", "openpty", "killpg", "getuid", "geteuid", "getgid", "getpgid", "setsid", "setpgid",
             "sched_getaffinity", "sched_setaffinity", "register_at_fork", "uname", "sysconf", "mkfifo",
             "chown", "wait4", "nice", "O_DIRECTORY", "O_NOFOLLOW", "posix_fadvise", "sendfile", "getloadavg"],
        errno: ["EDQUOT"],
    },
    "darwin": {
        signal: ["SIGRTMIN", "SIGPWR", "sigtimedwait", "sigwaitinfo"],
        os: ["sched_getaffinity", "sched_setaffinity", "posix_fadvise", "memfd_create", "eventfd"],
        errno: [],
    },
}[system]
UNIX = ["fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"] if system == "win32" else []
for module, names in LACKING.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in UNIX:
    sys.modules[name] = None

load = ctypes.CDLL

def without_glibc(name, *more, **options):
    if name is None and system == "win32":
        raise TypeError("no handle of the process itself")
    if "libc.so" in str(name):
        raise OSError(f"{name}: not found")
    return object() if name is None else load(name, *more, **options)

ctypes.CDLL = without_glibc
sys.platform = system
if system == "win32":  # which Lightning has asked for already
    from pytorch_lightning.trainer.connectors import signal_connector
    signal_connector._IS_WINDOWS = True
    signal.valid_signals = lambda: {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV,
                                    signal.SIGTERM}
sys.path.insert(0, root)
imported = [name for _, name, _ in pkgutil.walk_packages([root]) if name.partition(".")[0] not in ("tests", "setup")]
for name in imported:
    if not name.endswith("__main__") and not name.startswith("benchmarks.contenders"):
        importlib.import_module(name)
import train, evaluate
for script in (train, evaluate):
    with contextlib.suppress(SystemExit):
        script.main(["--help"])
status = train.main(["--data", "Digits", "--model.hidden", "[8]", "--trainer.max_epochs", "1", "--num_samples", "3",
                     "--limit", "9", "--callbacks", "[samples]", "--trainer.accelerator", "cpu", "--run_dir", "a"])
status = status or evaluate.main(["a/checkpoints/best.ckpt", "--num_samples", "3", "--limit", "9",
                                   "--figures", "[samples]"])
print(f"{len(imported)} modules, status {status}")
"""


@pytest.mark.parametrize("system", ["win32", pytest.param("darwin", marks=pytest.mark.slow)])
def test_no_module_requires_platform_specific_features(tmp_path, system):
    done = subprocess.run(
        [sys.executable, "-c", HIDE, system, str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "--trainer.max_epochs" in done.stdout
    assert "--ais_chains" in done.stdout
    modules, status = done.stdout.splitlines()[-1].split(" modules, status ")
    assert int(modules) > 80
    assert status == "0", done.stderr


def test_names_of_run_folders_are_valid_on_all_platforms(tmp_path, monkeypatch):
    from cli.train_options import DEFAULTS, build_parser
    from runtime.run_folder import resolve_run_dir

    monkeypatch.chdir(tmp_path)
    folder, _ = resolve_run_dir(build_parser(DEFAULTS).parse_args([]))
    assert not set('<>:"\\|?*') & set("".join(folder.parts))
