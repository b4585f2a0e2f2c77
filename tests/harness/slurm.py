"""A real Slurm cluster on 127.0.0.1: a controller and two compute nodes with simulated GPUs."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
from pathlib import Path

from tests.harness.eventually import eventually
from tests.harness.sshd import free_port

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Slurm:
    """One cluster; `stop` leaves nothing of it running. Accounting is off, as on many clusters."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        """`sockets` is a folder with a short path."""
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._socket = sockets / "munge"
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "state").mkdir(parents=True)
        (folder / "munge").mkdir(mode=0o700)
        self._key = folder / "munge" / "key"
        self._key.write_bytes(secrets.token_bytes(64))
        self._key.chmod(0o400)
        user, host = getpass.getuser(), socket.gethostname().partition(".")[0]
        nodes = [free_port(), free_port()]
        lines = [
            f"NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 "
            "RealMemory=4000 Gres=gpu:t4:2"
            for number, port in enumerate(nodes, 1)
        ]
        self.conf.write_text(
            f"""ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={self._socket}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
CommunicationParameters=NoAddrCache,NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={free_port()}
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_interval=1,bf_interval=1
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
GresTypes=gpu
MinJobAge=300
KillWait=5
OverTimeLimit=0
{chr(10).join(lines)}
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=1:00:00 State=UP
PartitionName=long Nodes=n[1-2] MaxTime=24:00:00 State=UP
"""
        )
        (folder / "gres.conf").write_text(
            "AutoDetect=off\nNodeName=n[1-2] Name=gpu Type=t4 File=/dev/null\n"
            "NodeName=n[1-2] Name=gpu Type=t4 File=/dev/zero\n"
        )
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    @property
    def environ(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        munge = self.folder / "munge"
        self._spawn(
            "munged", "-F", "-f", f"--socket={self._socket}", f"--key-file={self._key}",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
            "--num-threads=2",
        )  # fmt: skip
        eventually(self._socket.exists, "munged listens")
        self._spawn("slurmctld", "-D", "-i")
        for node in ("n1", "n2"):
            self._spawn("slurmd", "-D", "-N", node)
        eventually(lambda: self("sinfo", "-h", "-o", "%T %D") == "idle 2\n", "idle nodes")

    def _spawn(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.out").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [shutil.which(words[0], path=PATH) or words[0], *words[1:]],
                    env={**os.environ, **self.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def __call__(self, *words: str) -> str:
        """What one of Slurm's own commands prints."""
        done = subprocess.run(
            words, env={**os.environ, **self.environ}, capture_output=True, text=True, check=False
        )
        return done.stdout

    def stop(self) -> None:
        """End the jobs and the daemons."""
        self("scancel", "--me")
        self("scancel", "-u", getpass.getuser())
        with contextlib.suppress(Exception):
            eventually(lambda: self("squeue", "-h") == "", "an empty queue", within_s=15)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        self._processes.clear()
