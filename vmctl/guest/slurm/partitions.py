"""What a cluster's partitions offer, by sinfo."""

from __future__ import annotations

from .commands import run_slurm

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from ..machine.messages import PartitionOffer

FORMAT = "%P|%l|%G|%D|%t"
MOST = 200


def partitions() -> tuple[dict[str, PartitionOffer], str]:
    """What each offers, by its name, and the name of the default one."""
    found: dict[str, PartitionOffer] = {}
    default = ""
    _, text, _ = run_slurm("sinfo", "-h", "-o", FORMAT)
    for line in text.splitlines()[: MOST * 20]:
        cells = line.split("|")
        if len(cells) != 5 or not cells[3].isdigit():
            continue
        name = cells[0].rstrip("*")
        default = name if cells[0].endswith("*") else default
        known = found.setdefault(name, {"time": cells[1], "gres": [], "nodes": 0, "idle": 0})
        if cells[2] not in known["gres"]:
            known["gres"].append(cells[2])
        known["nodes"] += int(cells[3])
        known["idle"] += int(cells[3]) if cells[4] == "idle" else 0
    return dict(list(found.items())[:MOST]), default
