"""What both ends of a conversation agree on: imported by the helpers on the VM and by vmctl here.

Standard library only, and little of it: every start of a helper is waited for. What each end sends
is checked where it arrives (vmctl/domain/guest_replies.py); messages.py only names it.
"""

from __future__ import annotations

import json
import struct

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Generic, TypeVar

    from .machine.messages import MachineRecord, PrepareRequest, ServerReply, ServerRequest
    from .messages import (
        AcceptReply,
        AcceptRequest,
        CancelReply,
        FetchRequest,
        FollowReply,
        FollowRequest,
        ProjectRequest,
        PullRequest,
        PushReply,
        PushRequest,
        RemoteListing,
        RunRequest,
        RunsReply,
        ServiceName,
        ServiceReply,
        ServiceRequest,
        ServiceState,
        StartReply,
        StartRequest,
        TreeEntry,
    )

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
