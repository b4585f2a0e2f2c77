"""The types of what helpers are asked and reply; a checker of types reads them, no program does."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from .machine.messages import PartitionOffer

# ["f", sha256, size, mtime_ns, mode], ["l", target] or ["d"] (an empty folder)
TreeEntry = list[Any]
# [kind, relative path, size, mtime_ns, mode, link target]; kind is file, dir or link
ListedEntry = list[Any]


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
    """A project, and whether it is asked as a cluster's, whose runs Slurm has, or as a server's."""

    project: str
    slurm: NotRequired[bool]


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
