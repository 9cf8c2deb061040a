"""Local SLURM cluster of two nodes for tests, with its own configuration, ports and daemons."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

# Partition `high` preempts `low` immediately and `grace` after a notice of two minutes. Multi-device runs derive their
# ports from job ids, so the first job id is a free port.
CONFIG = """
ClusterName=test
FirstJobId={controller}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={controller}
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=4 RealMemory=65536 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=4 RealMemory=65536 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=120
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def missing() -> str:
    """Return why SLURM cannot be run here, or ""."""
    if os.name != "posix" or os.geteuid() != 0:
        return "SLURM's daemons need root"
    absent = [name for name in ("slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name) is None]
    return f"needs SLURM (Debian's slurm-wlm): there is no {', '.join(absent)}" if absent else ""


def wait_for(condition, what: str, seconds: float = 180):
    """Wait for a true value of `condition()` and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return value


def free_ports(count: int) -> list[int]:
    """Return distinct free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """A running SLURM cluster; commands run in the folder from which jobs are submitted."""

    def __init__(self, folder: Path, env: dict[str, str]):
        self.folder, self.env = folder, env

    def run(self, *words: str, **variables: str) -> str:
        """Run a SLURM command and return its output."""
        done = subprocess.run(words, cwd=self.folder, env=self.env | variables, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        """Return the fields of a job: JobState, Reason, Restarts, ExitCode, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", "--oneliner", job)))

    def start_again(self, job: str, *changes: str) -> None:
        """Wait until a job is requeued and start it in 3 seconds instead of SLURM's two minutes.

        SLURM does not start a job in the same second in which it ended it.
        """
        wait_for(lambda: self.show(job)["JobState"] == "PENDING", f"job {job} to be requeued")
        wait_for(lambda: self.show(job)["Reason"] == "BeginTime", f"job {job} to have been cleaned up")
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3", *changes)

    def end(self, job: str) -> dict[str, str]:
        """Wait until a job has ended and return its fields."""
        wait_for(lambda: self.show(job)["JobState"] in ENDED, f"job {job} to end")
        return self.show(job)


@contextmanager
def cluster(folder: Path, env: dict[str, str]) -> Iterator[Cluster]:
    """Run a SLURM cluster for the duration of the block.

    Args:
        folder: Folder for its files.
        env: Environment of its commands and jobs.
    """
    controller, n1, n2 = free_ports(3)
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool-n1", "spool-n2", "submit"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, host=host, controller=controller, n1=n1, n2=n2))
    env = env | {"SLURM_CONF": str(config)}
    daemons = []
    with closing((folder / "daemons.log").open("w")) as log:
        try:
            for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
                daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            slurm = Cluster(folder / "submit", env)
            sinfo = ["sinfo", "--noheader", "--partition=low", "--format=%T %D"]
            asked = lambda: subprocess.run(sinfo, env=env, capture_output=True, text=True).stdout.strip()  # noqa: E731
            wait_for(lambda: asked() == "idle 2", f"two idle nodes; {folder / 'daemons.log'} says why not")
            yield slurm
            slurm.run("scancel", "--user=root")
            wait_for(lambda: not slurm.run("squeue", "--noheader"), "jobs to be cancelled")
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait()
