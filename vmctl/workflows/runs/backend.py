"""Where runs live: in tmux on a machine, in a cluster's queue, or as jobs of a cloud's service.

Workflows know `RunBackend` only.

A backend starts a run, lists runs, follows one, ends one, enters one, and knows why one was lost.
"""

from __future__ import annotations

import os
import subprocess
from typing import IO, TYPE_CHECKING, Protocol

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.command import command
from vmctl.domain.errors import Conflict, NotFound, TimedOut, Unreachable
from vmctl.domain.events import Output, Story, Warned
from vmctl.domain.reply_shapes import unexpected_reply
from vmctl.domain.runs.run import RunFacts, observe
from vmctl.guest.protocol import CANCEL, FOLLOW, RUNS, START, TMUX
from vmctl.ssh import rpc
from vmctl.ssh.processes import end_process
from vmctl.ssh.remote_output import skip_noise, tail_of
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.workflows.runs.lost_runs import gone_with_its_vm, why_gone, why_lost
from vmctl.workflows.runs.setup import prepare_machine
from vmctl.workflows.session.reconnect import Reconnector
from vmctl.workflows.session.session import Session, connect, connect_quietly

if TYPE_CHECKING:
    from datetime import datetime

    from vmctl.domain.settings.target_settings import SlurmSettings
    from vmctl.guest.messages import (
        FollowRequest,
        ProjectRequest,
        RunRequest,
        StartReply,
        StartRequest,
    )
    from vmctl.workflows.base.agreements import Agree

SESSION_GAP_S = 0.5
SESSION_LIMIT_S = 60.0  # until a run without a tmux session is given up
STEADY_S = 30.0  # after which a connection counts as progress, even without output
NOT_FOUND = 127  # a shell's exit code for a program that is not there


class RunBackend(Protocol):
    """A place that carries runs."""

    started: str  # what a run is, once `start` has returned: started, or submitted

    @property
    def stops_at(self) -> datetime | None:
        """When Google will end the VM under the runs."""

    @property
    def usd_per_hour(self) -> float | None:
        """What a run costs; None: not known."""

    @property
    def price_dated(self) -> str:
        """The day of that price."""

    def start(self, request: StartRequest, slurm: SlurmSettings | None) -> Story[tuple[str, bool]]:
        """Start a run: its id, and whether it goes on already with the very same request."""

    def list_runs(self) -> list[RunFacts]:
        """Every run of the project."""

    def follow(self, run_id: str, *, wait: bool) -> Story[RunFacts]:
        """Its log from the start as Output, and what is known of it then; `wait` until it ends."""

    def cancel(self, run_id: str) -> tuple[RunFacts, bool]:
        """End it; whether it had ended before."""

    def attach(self, facts: RunFacts) -> int:
        """Enter it with this terminal; the exit code there."""

    def why_lost(self, facts: RunFacts) -> Story[str]:
        """Why a run was lost, in a sentence; "" for one that was not."""


def open_backend(
    project: Project, clock: Clock, agree: Agree | None = None, *, quietly: bool = False
) -> Story[RunBackend]:
    """The backend of the project's machine, cluster or service; `agree` as for a push.

    `quietly` for commands that say nothing while they connect.
    """
    if project.target is not None and project.target.vertex is not None:
        from vmctl.workflows.base.site import ensure_emulator
        from vmctl.workflows.vertex.backend import VertexBackend

        if project.local:
            yield from ensure_emulator(clock)
        return VertexBackend(project, clock, agree)
    if quietly:
        session = Session(connect_quietly(project))
    else:
        session = yield from connect(project, clock=clock)
    if project.target is not None and project.target.kind == "slurm":
        from vmctl.workflows.runs.slurm_backend import SlurmBackend

        return SlurmBackend(project, session, clock)
    return MachineBackend(project, session, clock)


class MachineBackend:
    """Runs in tmux on a VM or a server, carried by the helpers there."""

    started = "Started"
    in_slurm = False

    def __init__(self, project: Project, session: Session, clock: Clock) -> None:
        self.project = project
        self.session = session
        self.clock = clock

    @property
    def stops_at(self) -> datetime | None:
        """See RunBackend."""
        return self.session.stops_at

    @property
    def usd_per_hour(self) -> float | None:
        """See RunBackend."""
        return self.session.usd_per_hour

    @property
    def price_dated(self) -> str:
        """See RunBackend."""
        return self.session.price_dated

    def start(self, request: StartRequest, slurm: SlurmSettings | None) -> Story[tuple[str, bool]]:
        """See RunBackend; the machine is prepared first where that has not been done."""
        if self.session.stops_at is not None:  # the VM's watchdog warns the run by it
            request["stops_at"] = self.session.stops_at.timestamp()
        started = yield from self._start(request)
        return started["id"], started["existing"]

    def _start(self, request: StartRequest) -> Story[StartReply]:
        request["python"] = self.session.ssh.target.place.python
        started = rpc.call(self.session.ssh, START, request)
        if "unprepared" in started:
            yield from prepare_machine(self.session.ssh, clock=self.clock)
            started = rpc.call(self.session.ssh, START, request)
        if "unprepared" in started:
            raise unexpected_reply("start found nothing prepared right after set-up")
        return started

    def list_runs(self) -> list[RunFacts]:
        """See RunBackend."""
        request: ProjectRequest = {"project": self.project.name, "slurm": self.in_slurm}
        reply = rpc.call(self.session.ssh, RUNS, request)
        return [RunFacts.parse(found) for found in reply["runs"]]

    def cancel(self, run_id: str) -> tuple[RunFacts, bool]:
        """See RunBackend: SIGTERM first, so that it can save."""
        request: RunRequest = {"id": run_id}
        reply = rpc.call(self.session.ssh, CANCEL, request)
        return RunFacts.parse(reply["run"]), bool(reply["already"])

    def attach(self, facts: RunFacts) -> int:
        """Its tmux session; Ctrl-B D leaves it running."""
        line = command(*TMUX, "attach-session", "-t", f"={facts.id}")
        code = self.session.ssh.interactive(line, tty=True)
        if code == NOT_FOUND:
            raise Conflict(
                f"tmux is not installed there, so {facts.id} cannot be entered.",
                hint=f"Follow it: vmctl logs -f {facts.id}",
            )
        return code

    def why_lost(self, facts: RunFacts) -> Story[str]:
        """See RunBackend: by what Google says of the VM."""
        if self.project.target is not None:
            yield from ()
            return ""
        return (yield from why_lost(self.project, facts, self.clock))

    def until_readable(self, stream: IO[bytes], run_id: str, offset: int) -> Story[None]:
        """What is to be said until the log goes on; here nothing: the read itself waits."""
        yield from ()

    def follow(self, run_id: str, *, wait: bool) -> Story[RunFacts]:
        """The log from its start; after a lost link it goes on at the byte where it broke off."""
        reconnector = Reconnector(self.project, self.clock, notice=Warned)
        offset, idle_since = 0, None
        while True:
            before, opened_at = offset, float("inf")
            request: FollowRequest = {"id": run_id, "offset": offset, "wait": wait}
            try:
                process = rpc.stream(self.session.ssh, FOLLOW, request)
                opened_at = self.clock.monotonic()
                try:
                    assert process.stdout is not None
                    skip_noise(process.stdout.fileno())
                    while True:
                        yield from self.until_readable(process.stdout, run_id, offset)
                        data = os.read(process.stdout.fileno(), 1 << 16)
                        if not data:
                            break
                        offset += len(data)
                        yield Output(data)
                    facts = last_facts(self.session.ssh, process)
                finally:
                    end_process(process)
                if observe(facts).is_over or not wait:
                    return facts
                # no session yet: it comes in a moment, or the run is lost
                if offset > before or idle_since is None:
                    idle_since = self.clock.monotonic()
                elif self.clock.monotonic() - idle_since > SESSION_LIMIT_S:
                    raise TimedOut(
                        f"The machine reports {run_id} as running, but ended its log.",
                        hint=f"Check it: vmctl ps, vmctl logs {run_id}",
                    )
                self.clock.sleep(SESSION_GAP_S)
            except Unreachable as error:
                progressed = offset > before or self.clock.monotonic() - opened_at > STEADY_S
                yield from reconnector.connection_lost(error, progressed=progressed)
                try:  # while the machine cannot be reached, the old connection is kept to try
                    self.session = (yield from reconnector.session(verify=True)) or self.session
                except (NotFound, Conflict) as missing:  # a run does not outlive its VM
                    why = yield from why_gone(self.project, self.clock)
                    raise gone_with_its_vm(run_id, why) from missing


def last_facts(ssh: OpenSSH, process: subprocess.Popen[bytes]) -> RunFacts:
    """The follower's final reply, which comes after the whole log."""
    errors, code = tail_of(process)
    if code == 0:
        word = rpc.parse_last_reply(FOLLOW, "run", errors)
        if word is not None:
            return RunFacts.parse(word["run"])
    raise rpc.explain_end(ssh, code, errors)
