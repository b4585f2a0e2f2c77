"""What both ends of a conversation agree on: imported by the helpers on the VM and by vmctl here.

Standard library only, and little of it: every start of a helper is waited for. What each end sends
is checked where it arrives (vmctl/domain/guest_replies.py); the types below only name it.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

    Request = TypeVar("Request")
    Reply = TypeVar("Reply", covariant=True)

    class Verb(str, Generic[Request, Reply]):
        """The name of a verb, with the types of its request and of its reply."""
else:
    Verb = str

# exit codes of a helper; the shell line that starts it ends with ABSENT where there is none
ABSENT = 97
REFUSED = 96  # standard error ends with {"error": {"kind", "message", "hint"}}
NOT_INSTALLED = 95
BROKEN = 94  # it cannot be imported: a full disk or a power cut has cut a file short

# A start file of the login shell may print, before anything of ours does or meanwhile.
BEGIN = b"vmctl-begins-7d1f4c"  # a line: from here on the output is the command's own
REPLY = b"vmctl-reply-7d1f4c "  # then a reply's length in bytes, a line end, the reply

# in a job's command: it says itself where its arguments belong; else they follow its end
TAKES_ARGUMENTS = r"\$(?:[@*1-9]|\{[@*1-9])"

BEAT_S = 5.0  # a helper at work sends an empty line this often: silence is a fault

TMUX = ("tmux", "-u", "-L", "vmctl", "-f", "/dev/null")  # a server of its own, not the user's

# push: a frame is one letter, the length of its payload, the payload; see receiver.py
FRAME = struct.Struct(">cI")
TREE, DIFFERENCE, PACKED, RAW = b"M", b"D", b"Z", b"R"
COMING, PLACED, ASK_EARLY, END_TURN = b"H", b"P", b"?", b"."
CHUNK = struct.Struct(">32sQQI")  # SHA-256, whole size, offset, length; then that many bytes
DELTA_BYTES = 4 << 20  # from here on a file travels as its difference to the older one

WORKSPACES_VARIABLE = "VMCTL_WORKSPACES"  # on a server: the folder for the projects' folders
WORKSPACES = "Workspace"  # below the home, as is STAGING; a folder for each project
STAGING = ".vmctl/tmp/push-{project}"
STAGING_NEAR = ".vmctl-push"  # in the workspace, where that is on a disk of its own
PLACED_FOLDER = "placed"  # in the staging folder: what rsync and scp bring, under its own path

# fetch and pull: the end of the name of a file that is not whole yet, and what a listing may hold
PART_SUFFIX = ".vmctl-part"
LISTED = 500_000  # files, folders and links
LISTING_BYTES = 64 << 20  # of its JSON


class GuestError(Exception):
    """A request that cannot be met; `kind` names the class of error on the other side."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


def tree_id(tree: Mapping[str, TreeEntry]) -> str:
    """The name of a tree by all that is in it."""
    import hashlib

    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


if TYPE_CHECKING:
    # ["f", sha256, size, mtime_ns, mode], ["l", target] or ["d"] (an empty folder)
    TreeEntry = list[Any]
    # [kind, relative path, size, mtime_ns, mode, link target]; kind is file, dir or link
    ListedEntry = list[Any]

    class PrepareRequest(TypedDict):
        """`again`: even if nothing changed; `server`: only look, and take `python` where given."""

        again: bool
        server: NotRequired[bool]
        python: NotRequired[str]

    class MachineRecord(TypedDict):
        """The interpreter that jobs get, the packages it lacks, and those that were added."""

        python: str
        version: str
        missing: list[str]
        added: list[str]
        trouble: str
        signature: NotRequired[list[int]]
        login_path: NotRequired[str]
        wanted: NotRequired[str]  # as the target's `python` has it
        done_before: NotRequired[bool]

    class PushRequest(TypedDict):
        """`base` is the tree known to both ends, `tree` the one to come; "" is none."""

        project: str
        origin: str
        place: str
        force: bool
        dry_run: bool
        base: str
        tree: str
        turn: NotRequired[int]  # drawn on the VM

    class Difference(TypedDict):
        """What leads from one tree to another."""

        put: dict[str, TreeEntry]
        gone: list[str]

    class PlacedFolders(TypedDict):
        """Where other programs put files, and where they find older versions of them."""

        folder: str
        older: list[str]

    class MissingFiles(TypedDict):
        """Contents to send, by the numbers of their paths in the sorted tree, as ranges."""

        files: list[list[int]]
        held: dict[int, int]
        older: dict[int, str]
        placed: PlacedFolders

    class PushSummary(TypedDict):
        """What a push did, or in a dry run would do; `tree` only where it did."""

        put: list[list[int]]
        deleted: list[str]
        kept: list[str]
        conflicts: list[list[str]]
        tree: NotRequired[str]

    class PushReply(TypedDict, total=False):
        """One line of the VM: exactly one of these."""

        ask: Literal["tree"]
        want: MissingFiles
        conflicts: list[list[str]]
        plan: PushSummary
        done: PushSummary

    class AcceptRequest(TypedDict):
        """`accept` is [path, TreeEntry or None] for each path that is the same on both sides."""

        project: str
        accept: list[list[Any]]

    class AcceptReply(TypedDict):
        """The paths that were accepted, and the id of the tree that is on record now."""

        accepted: list[str]
        tree: str

    class StartRequest(TypedDict):
        """A job to run; `stops_at` is when Google stops the VM, in seconds since the epoch.

        `python` is the one that the target names, "" where it leaves the choice to set-up.
        """

        project: str
        job: str
        directory: str
        command: str
        args: list[str]
        setup: list[str]
        env: dict[str, str]
        outputs: list[str]
        stops_at: NotRequired[float]
        python: NotRequired[str]
        serves: NotRequired[bool]  # a web service, which tells where it listens
        slurm: NotRequired[SlurmRequest]
        needs: NotRequired[list[str]]  # files of the project without which it cannot begin
        installs: NotRequired[InstallRequest]

    class InstallRequest(TypedDict):
        """What a job installs in an environment of its own: requirements of pip, or a package.

        `package` is a folder from the project's root, "" for none.
        """

        requirements: list[str]
        package: str

    class SlurmRequest(TypedDict):
        """A batch script; `own`: the user's, which runs as it is, in `folder` of the workspace."""

        script: str
        own: bool
        folder: NotRequired[str]
        args: NotRequired[list[str]]
        name: NotRequired[str]
        options: NotRequired[list[str]]
        nodes: NotRequired[int]
        modules: NotRequired[bool]
        term_s: NotRequired[int]  # so long before the time limit it gets SIGTERM
        resubmit: NotRequired[bool]
        time: NotRequired[str]
        partition: NotRequired[str]

    class SlurmJob(TypedDict):
        """A job as the queue has it; `start` is when it is expected to start, or did.

        `errors` is the file of standard error of a script of the user's own, where it has one.
        """

        job_id: str
        state: str
        reason: str
        start: float | None
        errors: NotRequired[str]

    class Refusal(TypedDict):
        """Why sbatch does not take a job; of each partition its time, GRES and nodes."""

        stderr: str
        accounts: list[str]
        partitions: dict[str, PartitionOffer]
        default: str

    class StartReply(TypedDict, total=False):
        """The run, or that the machine has not been prepared yet, or that Slurm refuses."""

        unprepared: bool
        id: str
        existing: bool
        refused: Refusal

    class ProjectRequest(TypedDict):
        """A question about a project."""

        project: str

    class RunRequest(TypedDict):
        """A question about a run."""

        id: str

    class RunRecord(TypedDict):
        """What the VM has of a run; None where it has nothing."""

        id: str
        spec: dict[str, Any]
        phase: dict[str, Any] | None
        exit: dict[str, Any] | None
        cancel_asked: bool
        session: bool
        log_bytes: int
        now: float
        slurm: NotRequired[SlurmJob | None]

    class RunsReply(TypedDict):
        """All runs of a project."""

        runs: list[RunRecord]

    class CancelReply(TypedDict):
        """`already`: it had ended before."""

        already: bool
        run: RunRecord

    class FollowRequest(TypedDict):
        """A run's log from a byte offset; `wait` until the run ends."""

        id: str
        offset: int
        wait: bool

    class FollowReply(TypedDict):
        """The last line on standard error."""

        run: RunRecord

    class FetchRequest(TypedDict):
        """`ask`: send only what the other side asks for, once it has the listing."""

        project: str
        paths: list[str]
        force: bool
        wait: bool
        ask: bool

    class PullRequest(TypedDict):
        """Without paths it is about everything that was pushed."""

        project: str
        paths: list[str]

    class ListedItem(TypedDict):
        """One path that was asked for; `own` has the files of a run's own tree by their paths."""

        wanted: str
        base: str
        inside: str
        path: str
        kind: str
        files: list[ListedEntry]
        own: NotRequired[dict[str, str]]
        older: NotRequired[bool]

    class RemoteListing(TypedDict):
        """What a fetch or a pull would bring; the last four are of a pull."""

        found: list[ListedItem]
        missing: list[str]
        left_out: list[str]
        going: bool
        ended_at: float | None
        run: NotRequired[str | None]
        sums: NotRequired[dict[str, str]]
        deleted: NotRequired[list[str]]
        same: NotRequired[list[str]]
        made: NotRequired[list[str]]

    class ServiceRequest(TypedDict):
        """A web service to run unless it runs already; `run`: it is that run of a cluster's."""

        project: str
        name: str
        command: str
        port: int
        directory: str
        token: bool
        run: NotRequired[str]

    class ServiceReply(TypedDict):
        """Whether it was started just now, and its token, which may be "".

        Of a run that serves also where it listens, once that is known.
        """

        started: bool
        token: str
        host: NotRequired[str]
        port: NotRequired[int]

    class ServiceName(TypedDict):
        """A question about a service, or about the `run` that serves."""

        name: str
        run: NotRequired[str]

    class ServiceState(TypedDict):
        """Whether it runs, and the end of its log."""

        running: bool
        tail: str

    class ServerRequest(TypedDict):
        """`torch`: import it, which takes seconds, to see whether it finds the GPU; `slurm`: ask
        a cluster what its partitions offer."""

        project: str
        torch: bool
        slurm: bool

    class PartitionOffer(TypedDict):
        """The longest time of a job, GRES of each kind of node, nodes in all and idle."""

        time: str
        gres: list[str]
        nodes: int
        idle: int

    class GpuUse(TypedDict):
        """One GPU, its memory in MiB, and the users whose programs are on it."""

        name: str
        percent: int
        used_mb: int
        total_mb: int
        users: list[str]

    class DiskRoom(TypedDict):
        """Bytes."""

        free: int
        total: int

    class ServerReply(TypedDict):
        """What a server has; `driver_trouble` is why nvidia-smi fails, "" where it is not there."""

        host: str
        python: str
        version: str
        tmux: bool
        rsync: bool
        cores: int
        load: float
        gpus: list[GpuUse]
        driver_trouble: str
        torch: dict[str, Any]
        room: DiskRoom
        quota: DiskRoom | None
        partitions: dict[str, PartitionOffer]

    class BootRequest(TypedDict):
        """How many GPUs are expected, and whether torch is to be asked."""

        gpus: int
        torch: bool


PREPARE: Verb[PrepareRequest, MachineRecord] = Verb("prepare")
PUSH: Verb[PushRequest, PushReply] = Verb("push")
PUSH_ACCEPT: Verb[AcceptRequest, AcceptReply] = Verb("push-accept")
START: Verb[StartRequest, StartReply] = Verb("start")
RUNS: Verb[ProjectRequest, RunsReply] = Verb("runs")
CANCEL: Verb[RunRequest, CancelReply] = Verb("cancel")
FOLLOW: Verb[FollowRequest, FollowReply] = Verb("follow")
FETCH: Verb[FetchRequest, RemoteListing] = Verb("fetch")
PULL: Verb[PullRequest, RemoteListing] = Verb("pull")
SERVICE: Verb[ServiceRequest, ServiceReply] = Verb("service")
SERVICE_STATE: Verb[ServiceName, ServiceState] = Verb("service-state")
SERVER: Verb[ServerRequest, ServerReply] = Verb("server")
