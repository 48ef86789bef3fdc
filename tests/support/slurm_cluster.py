"""A Slurm cluster of one node with two CPUs on this machine, without systemd: its daemons, files and ports are its own.

Debian has it: apt-get install slurmctld slurmd slurm-client munge
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credential of its last start has expired: 2 minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_for_slurm() -> str | None:
    """Why a cluster cannot be started here; None if it can."""
    programs = [name for name in (*DAEMONS, "sbatch", "srun", "scontrol") if _program(name) is None]
    if programs:
        return f"{', '.join(programs)} not found"
    if os.geteuid() != 0:
        return "slurmd runs jobs only as root"
    return None if psutil.cpu_count() >= 2 else "fewer than two CPUs"


@dataclass
class SlurmCluster:
    """Started by ``start``, and stopped by ``stop``, which cancels all jobs."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which the commands of Slurm find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Write the configuration, start the daemons, and wait until the node accepts jobs."""
        self.folder.chmod(0o755)  # munged refuses a socket that others could replace
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        user = Path("~").expanduser().owner()
        host, ports = socket.gethostname().split(".")[0], (_free_port(), _free_port())
        text = CONFIGURATION.format(folder=self.folder, host=host, user=user, ports=ports)
        (self.folder / "slurm.conf").write_text(text)
        options = [
            f"--{name}-file={self.folder}/munge.{suffix}"
            for name, suffix in (("key", "key"), ("pid", "pid"), ("log", "log"), ("seed", "seed"))
        ]
        self._run(_program("munged"), "--force", f"--socket={self.folder}/munge.socket", *options)
        for name in ("slurmctld", "slurmd"):
            self._run(_program(name), "-f", str(self.folder / "slurm.conf"))
        self.wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T"), 60)

    def stop(self) -> None:
        """Cancel all jobs, end the daemons, and kill what does not end."""
        with suppress(AssertionError, subprocess.SubprocessError):
            self.run("scancel", "--me")
            self.wait(lambda: self.run("squeue", "--noheader") == "", 60)
        processes = self.processes()
        for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
            with suppress(OSError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """The daemons and the processes of the jobs: those with a path of this cluster in command line or environment."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                text = " ".join(process.cmdline()) + process.environ().get("SLURM_CONF", "")
                if str(self.folder) in text and process.pid != os.getpid():
                    found.append(process)
        return found

    def run(self, *command: str | Path | None, timeout: float = 120) -> str:
        """The output of a command of Slurm, which has to succeed."""
        done = self._run(*command, timeout=timeout)
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of a job, such as JobState and Restarts."""
        text = self.run("scontrol", "show", "job", "--oneliner", job_id)
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def wait_for(self, job_id: str, state: str, seconds: float) -> None:
        """Wait until a job is in this state. Fails where it has ended in another one."""

        def reached() -> bool:
            job = self.job(job_id)
            if job["JobState"] in ENDED and job["JobState"] != state:
                raise AssertionError(f"{job['JobState']}, exit code {job['ExitCode']}: see {job['StdOut']}")
            return job["JobState"] == state

        self.wait(reached, seconds)

    def wait(self, condition: object, seconds: float) -> None:
        """Wait until ``condition()`` is true. Fails with the end of the daemons' logs."""
        end = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            if time.monotonic() > end:
                logs = [path.read_text(errors="replace")[-2000:] for path in self.folder.glob("slurm*.log")]
                raise AssertionError("\n".join(["it did not happen in time", *logs]))
            time.sleep(0.5)

    def _run(self, *command: str | Path | None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        # A daemon keeps the streams that it inherits: files, so that nobody waits for their end.
        log = self.folder / "commands.log"
        with log.open("a") as errors, (self.folder / "output").open("w+") as output:
            done = subprocess.run(
                [str(each) for each in command], env=self.environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=errors, text=True, timeout=timeout, check=False,
            )  # fmt: skip
            output.seek(0)
            done.stdout = output.read()
        assert done.returncode == 0, f"{command}: {log.read_text()[-2000:]}"
        return done


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
