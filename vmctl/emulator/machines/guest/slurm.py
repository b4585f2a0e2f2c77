"""A Slurm cluster on one machine: a login node's controller, and two compute nodes beside it.

Everything runs as the login user, the only user of the machine: such a slurmd can run that user's
jobs, which is what a rehearsal needs. GPUs are simulated by device files that do nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .processes import Processes

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NODES = ("n1", "n2")
CONFIGURATION = """\
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={socket}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
CommunicationParameters=NoAddrCache{listening}
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdParameters=config_overrides
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
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {node}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {node}
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=1:00:00 State=UP
PartitionName=long Nodes=n[1-2] MaxTime=24:00:00 State=UP
"""
NODE = "CPUs=2 RealMemory=4000 Gres=gpu:t4:2"
GPUS = """\
AutoDetect=off
NodeName=n[1-2] Name=gpu Type=t4 File=/dev/null
NodeName=n[1-2] Name=gpu Type=t4 File=/dev/zero
"""


def configure(
    etc: Path,
    folder: Path,
    socket: Path,
    ports: Sequence[int],
    host: str,
    user: str,
    listening: str = "",
) -> None:
    """Write Slurm's configuration to `etc`: logs and state go to `folder`, `ports` are the
    controller's and each node's, `user` (a name or a number) is who everything runs as.

    `listening` is more of CommunicationParameters, for a host that others can reach."""
    etc.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir(parents=True, exist_ok=True)
    text = CONFIGURATION.format(
        host=host, user=user, socket=socket, ports=ports, folder=folder, node=NODE,
        listening=listening,
    )  # fmt: skip
    (etc / "slurm.conf").write_text(text)
    (etc / "gres.conf").write_text(GPUS)
    # a machine has no /sys/fs/cgroup for Slurm to look at
    (etc / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def munge_command(folder: Path, socket: Path) -> list[str]:
    """Make munge's key in `folder` unless it is there; argv of a munged in the foreground."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = folder / "key"
    if not key.exists():
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
    return [
        find("munged"), "-F", "-f", f"--socket={socket}", f"--key-file={key}",
        f"--pid-file={folder}/pid", f"--log-file={folder}/log", f"--seed-file={folder}/seed",
        "--num-threads=2",
    ]  # fmt: skip


def daemon_commands() -> list[list[str]]:
    """argv of the controller and of each node, in the foreground."""
    nodes = [[find("slurmd"), "-D", "-N", node] for node in NODES]
    return [[find("slurmctld"), "-D", "-i"], *nodes]


def find(program: str) -> str:
    """The program's path, also where the caller's PATH lacks the sbin folders."""
    return shutil.which(program, path=PATH) or program


def start(processes: Processes, host: str, uid: int, say: Callable[[str], None]) -> None:
    """Start this machine's cluster and leave it running; its state survives a stop."""
    folder, socket = Path("/var/spool/slurm"), Path("/run/munge/munge.socket.2")
    socket.parent.mkdir(mode=0o755, exist_ok=True)
    configure(Path("/etc/slurm"), folder, socket, (6817, 6818, 6819), host, str(uid))
    env = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/tmp"}
    with (folder / "daemons.log").open("ab") as log:
        munged = processes.spawn(munge_command(folder / "munge", socket), stderr=log, env=env)
        while not socket.exists() and not munged.done.wait(0.05):
            pass
        for command in daemon_commands():
            processes.spawn(command, stdout=log, stderr=log, env=env)
    say(f"slurm: the controller and the nodes {', '.join(NODES)} are started")
