"""Run a command beside a Slurm of one node that is there for it alone, and take it away again.

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge; neither systemd nor accounting.

    python scripts/one_node_slurm.py sinfo
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")

# jobs of the partition high take the place of those of low, which are queued again
CONF = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=900 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 MaxTime=60 State=UP
PartitionName=high Nodes={host} PriorityTier=2 MaxTime=60 State=UP
"""


def lacking() -> str:
    """Why there can be no Slurm here; empty if there can."""
    missing = [program for program in PROGRAMS if not shutil.which(program, path=PATH)]
    if missing:
        return f"there is no {', '.join(missing)} (Debian: slurmctld, slurmd, slurm-client, munge)"
    return "" if os.geteuid() == 0 else "slurmd wants to be root"


class Daemons:
    """The processes of a Slurm, and its commands.

    **Arguments:**

    - `folder`: where all its files are.
    """

    def __init__(self, folder: Path):
        self.folder, self.running = folder, []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}

    def start(self, *words: str, user: str | None = None) -> None:
        """Start a daemon."""
        with (self.folder / f"{words[0]}.out").open("wb") as out:
            process = subprocess.Popen(
                words,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                start_new_session=True,
            )
        self.running.append(process)

    def says(self, *words: str) -> str | None:
        """What a command prints; None if it fails."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def wait(self, what: str, happens: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something. Raises `RuntimeError` with what the daemons have written if it does not happen."""
        end = time.monotonic() + seconds
        while not happens():
            if time.monotonic() > end:
                logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
                told = [f"{log.name}: {log.read_text(errors='replace')[-2000:]}" for log in logs]
                raise RuntimeError("\n".join([f"{what}: waited in vain for {seconds} s", *told]))
            time.sleep(0.1)

    def end(self) -> None:
        """End all jobs, then all daemons."""
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            if self.says("squeue", "--noheader"):
                self.says("scancel", "--full", "--signal=KILL", "--state=RUNNING")
                self.says("scancel", "--state=PENDING")
                self.says("scancel", "--state=RUNNING")
                self.wait("end of jobs", lambda: not self.says("squeue", "--noheader"), 40)
        for process in reversed(self.running):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def slurm(cpus: int = 1) -> Iterator[dict[str, str]]:
    """A Slurm of one node while it is needed; gives the variables by which its commands find it.

    **Arguments:**

    - `cpus`: how many processors the node has.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    daemons = Daemons(folder)
    try:
        folder.chmod(0o755)  # munged is another user
        munge = folder / "munge"
        munge.mkdir(mode=0o755)
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path in (munge, key):
            shutil.chown(path, "munge", "munge")
        for name in ("state", "spool"):
            (folder / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        conf = CONF.format(folder=folder, host=host, ports=free_ports(2), cpus=cpus)
        (folder / "slurm.conf").write_text(conf)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        places = [f"--{option}={munge / name}" for option, name in files.items()]
        daemons.start("munged", "--foreground", *places, user="munge")
        daemons.wait("munged", (munge / "socket").exists)
        daemons.start("slurmctld", "-D")
        daemons.start("slurmd", "-D")
        daemons.wait("a node", lambda: daemons.says("sinfo", "-hN", "-p", "low", "-o%T") == "idle")
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        daemons.end()
        shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def main(words: list[str]) -> int:
    """Run a command; returns its exit code."""
    if reason := lacking():
        print(f"No Slurm here: {reason}.", file=sys.stderr)
        return 2
    if not words:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with slurm() as variables:
        return subprocess.run(words, env={**os.environ, **variables}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
