"""What Slurm says of a job, as vmctl says it: squeue's states, and why a job ended."""

from __future__ import annotations

# squeue's and sacct's states of a job that has not begun
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")

_REASONS = {
    "Priority": "others with a higher priority come first",
    "Resources": "it waits for free nodes",
    "Dependency": "it waits for another job",
    "BeginTime": "it begins later, as asked or after a requeue",
    "JobHeldUser": "it is held: scontrol release JOBID",
    "JobHeldAdmin": "an administrator holds it",
    "QOSMaxJobsPerUserLimit": "you have as many jobs running as you may",
    "QOSMaxGRESPerUser": "you use as many GPUs as you may",
    "AssocGrpGRES": "your group uses as many GPUs as it may",
    "AssocGrpBillingMinutes": "your project's hours are used up",
    "AssocGrpCPUMinutesLimit": "your project's hours are used up",
    "AssocMaxJobsLimit": "you have as many jobs running as you may",
    "PartitionDown": "the partition is down",
    "PartitionTimeLimit": "it asks for more time than the partition gives",
    "PartitionNodeLimit": "it asks for more nodes than the partition gives",
    "ReqNodeNotAvail": "the nodes that it needs are down or reserved",
    "Licenses": "it waits for a licence",
    "Reservation": "it waits for a reservation",
}
_ENDS = {
    "TIMEOUT": "Slurm ended it at its time limit.",
    "OUT_OF_MEMORY": "It used more memory than it had asked for.",
    "NODE_FAIL": "A node of its failed.",
    "PREEMPTED": "Slurm gave its nodes to a job of higher priority.",
    "CANCELLED": "It was cancelled with scancel.",
    "BOOT_FAIL": "Its nodes did not start.",
    "DEADLINE": "It could not start before its deadline.",
    "REVOKED": "It was taken back by another cluster.",
    "FAILED": "Its batch script failed.",
    "COMPLETED": "Its batch script ended without recording its exit code.",
}
_HINTS = {
    "TIMEOUT": "Ask for more: vmctl run --time 0-12:00:00 JOB; or resubmit = true in "
    "[jobs.J.slurm], for a job that goes on from its checkpoint",
    "OUT_OF_MEMORY": "Ask for more: vmctl run --mem 32G JOB",
}


def base_state(state: str) -> str:
    """`CANCELLED by 1000` and `RUNNING+` without what follows the state's name."""
    return (state.split() or [""])[0].rstrip("+").upper()


def reason_text(reason: str) -> str:
    """Why a job waits; Slurm's own word where there is no better one."""
    word = reason.strip("()").partition(",")[0]
    return _REASONS.get(word, word if word not in ("", "None") else "it was submitted just now")


def end_text(state: str) -> str:
    """Why a job ended whose helper could not say so itself; "" for a state that says nothing."""
    return _ENDS.get(base_state(state), "")


def end_hint(state: str) -> str:
    """What to do after such an end."""
    return _HINTS.get(base_state(state), "")
