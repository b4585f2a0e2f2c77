"""Why sbatch refuses a job, in words, with what the cluster offers instead."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vmctl.domain.errors import (
    AccessDenied,
    Conflict,
    InvalidInput,
    NotFound,
    Unreachable,
    VmctlError,
)
from vmctl.domain.names import find_nearest
from vmctl.domain.settings.target_settings import SlurmSettings, split_gpus
from vmctl.domain.text import last_lines, one_line

SHOWN = 12


def explain_refusal(stderr: str, slurm: SlurmSettings, facts: Mapping[str, Any]) -> VmctlError:
    """The error of a job that sbatch does not take.

    `facts` is what the cluster says of itself: `accounts` of the user, `partitions` as
    {name: {"time", "gpus": {type: number a node}, "nodes"}}, `default` the partition's name.
    """
    words = one_line(last_lines(stderr, 3)) or "it gave no reason"
    partitions: Mapping[str, Any] = facts.get("partitions") or {}
    if _has(
        stderr, "Unable to contact slurm", "Connection refused", "Socket timed out", "not answer"
    ):
        return Unreachable(
            f"The cluster's queue does not answer: {words}", hint="Try again later: sinfo there."
        )
    if _has(stderr, "sbatch: No such file"):
        return NotFound(
            "There is no sbatch there: it is not a login node of a Slurm cluster.",
            hint='Where sbatch comes from a module, load it in ~/.bash_profile; else kind = "ssh"',
        )
    if _has(stderr, "Invalid account", "account/partition combination"):
        return _account(slurm, facts)
    if _has(stderr, "invalid partition", "Invalid partition"):
        return _unknown("partition", slurm.partition or "", sorted(partitions))
    if _has(stderr, "time limit", "TimeLimit"):
        return _time(slurm, partitions, facts)
    if _has(stderr, "Invalid generic resource", "gres") or _lacks_gpu(slurm, partitions):
        return _gpu(slurm, partitions, words)
    if _has(stderr, "Requested node configuration", "More processors", "nodes than"):
        return InvalidInput(
            f"No node of the cluster has all that the job asks for: {words}",
            hint=f"Ask for less: {_asked(slurm)}",
        )
    if _has(stderr, "Access/permission denied", "not permitted"):
        return AccessDenied(f"Slurm does not let you submit: {words}", hint="Ask its support.")
    return Conflict(f"Slurm does not take the job: {words}", hint="See the script: --print-script")


def _has(text: str, *signs: str) -> bool:
    return any(sign.lower() in text.lower() for sign in signs)


def _account(slurm: SlurmSettings, facts: Mapping[str, Any]) -> VmctlError:
    mine: Sequence[str] = facts.get("accounts") or []
    wanted = f"The account {slurm.account} is not yours to use" if slurm.account else (
        "Slurm wants to know the account that pays"
    )  # fmt: skip
    if not mine:
        return InvalidInput(f"{wanted}.", hint="Ask your project's owner for its name: account = …")
    listed = ", ".join(mine[:SHOWN])
    return InvalidInput(f"{wanted}; yours are {listed}.", hint=f"vmctl run --account {mine[0]} …")


def _unknown(what: str, wanted: str, known: Sequence[str]) -> VmctlError:
    close = find_nearest(wanted, known) or (known[0] if known else "")
    listed = ", ".join(known[:SHOWN])
    return InvalidInput(
        f"The cluster has no {what} {wanted}; it has {listed or 'none that you may use'}.",
        hint=f"vmctl run --{what} {close} …" if close else "Ask its support.",
    )


def _time(
    slurm: SlurmSettings, partitions: Mapping[str, Any], facts: Mapping[str, Any]
) -> VmctlError:
    name = slurm.partition or str(facts.get("default") or "")
    limit = (partitions.get(name) or {}).get("time")
    gives = f": it gives {limit}" if limit else ""
    return InvalidInput(
        f"{slurm.time or 'The time asked for'} is more than the partition {name} allows{gives}.",
        hint=f"vmctl run --time {limit or '01:00:00'} …",
    )


def _lacks_gpu(slurm: SlurmSettings, partitions: Mapping[str, Any]) -> bool:
    if not slurm.gpus:
        return False
    kind, count = split_gpus(slurm.gpus)
    offered = _offered(slurm, partitions)
    return not any(number >= count and kind in (None, name) for name, number in offered.items())


def _offered(slurm: SlurmSettings, partitions: Mapping[str, Any]) -> dict[str, int]:
    """The most GPUs of each type on one node."""
    found: dict[str, int] = {}
    for name, partition in partitions.items():
        if slurm.partition in (None, name):
            for kind, number in (partition.get("gpus") or {}).items():
                found[kind] = max(found.get(kind, 0), number)
    return found


def _gpu(slurm: SlurmSettings, partitions: Mapping[str, Any], words: str) -> VmctlError:
    offered = _offered(slurm, partitions)
    where = f"the partition {slurm.partition}" if slurm.partition else "the cluster"
    if not offered:
        return InvalidInput(f"{where.capitalize()} has no GPUs: {words}", hint="sinfo -o '%P %G'")
    listed = ", ".join(f"{kind}:{number}" for kind, number in sorted(offered.items()))
    kind = slurm.gpus.rpartition(":")[0] if slurm.gpus else ""
    close = kind if kind in offered else find_nearest(kind, offered) or next(iter(offered))
    return InvalidInput(
        f"{where.capitalize()} has no node with gpu {slurm.gpus or ''}; the most a node has is "
        f"{listed}.",
        hint=f"vmctl run --gpus {close}:{offered[close]} …",
    )


def _asked(slurm: SlurmSettings) -> str:
    named = (("--nodes", slurm.nodes), ("--cpus", slurm.cpus), ("--mem", slurm.mem),
             ("--gpus", slurm.gpus), ("--tasks", slurm.tasks))  # fmt: skip
    return ", ".join(f"{flag} {value}" for flag, value in named if value) or "--nodes, --mem"


def parse_gres(text: str) -> dict[str, int]:
    """`gpu:a100:4(S:0-1),gpu:t4:1` as {"a100": 4, "t4": 1}; without a type it is `gpu`."""
    found: dict[str, int] = {}
    for kind, number in re.findall(r"gpu(?::([A-Za-z0-9_.-]+?))?:(\d+)", text):
        found[kind or "gpu"] = max(found.get(kind or "gpu", 0), int(number))
    return found
