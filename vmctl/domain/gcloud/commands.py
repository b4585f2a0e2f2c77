"""What vmctl does, said with gcloud, ssh, rsync and tmux: for those who want to know, or to leave.

Each step is one command line and why it is there. They do the same, without what makes vmctl's
own way safe or quick: they compare no checksums, keep no snapshot and follow no change of address.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmctl.domain.command import command, quote_path
from vmctl.domain.gcloud.steps import Place, Step, config_ssh, login_step, on_vm

_TMUX = "tmux -L vmctl"


def push(place: Place, exclude: Sequence[str]) -> tuple[Step, ...]:
    """The project's folder goes there."""
    rules = [f"--exclude={rule}" for rule in (*exclude, ".git/", ".venv/", "venv/")]
    return (
        *config_ssh(place),
        on_vm("the project's folder on the VM", place, f"mkdir -p {quote_path(place.folder)}"),
        Step(
            "sends what differs; --delete would also delete what your runs have made",
            (
                "rsync",
                "-az",
                *place.rsync_shell,
                "--filter=:- .gitignore",
                *rules,
                "./",
                f"{place.host}:{place.folder}/",
            ),
        ),
    )


def fetch(place: Place, paths: Sequence[str], to: str) -> tuple[Step, ...]:
    """Files come back; a cut transfer goes on where it was cut."""
    steps = [*config_ssh(place)]
    for path in paths:
        remote = path if path.startswith(("~/", "/")) else f"{place.folder}/{path}"
        remote = remote.removeprefix("~/")
        here = f"{to.rstrip('/')}/{path.rstrip('/').rpartition('/')[2]}"
        steps += [
            Step(
                f"downloads {path}",
                ("rsync", "-a", "--partial", *place.rsync_shell, f"{place.host}:{remote}", to),
            ),
            on_vm("its checksum on the VM …", place, f"sha256sum {quote_path(remote)}"),
            Step("… must equal the one here", ("sha256sum", here)),
        ]
    return tuple(steps)


# -- jobs, services, logins ------------------------------------------------------------------


def run(
    place: Place,
    *,
    job: str,
    line: str,
    directory: str,
    setup: Sequence[str],
    passed_on: Sequence[str],
) -> tuple[Step, ...]:
    """A job in tmux, which outlives the connection; `line` is its shell command."""
    folder = quote_path(f"{place.folder}/{directory}".rstrip("/"))
    names = f"; vmctl passes {', '.join(passed_on)} on from your shell" if passed_on else ""
    logged = f"cd {folder} && {line} 2>&1 | tee ~/{job}.log"
    return (
        *config_ssh(place),
        *(
            on_vm("set-up (vmctl: once per machine and content)", place, f"cd {folder} && {step}")
            for step in setup
        ),
        on_vm(
            f"the job, in a tmux session that outlives the connection{names}",
            place,
            f"{_TMUX} new-session -d -s {command(job)} {command('bash', '-lc', logged)}",
        ),
        Step(
            "its output; Ctrl-B D leaves it running",
            (*place.ssh, "-t", place.host, f"{_TMUX} attach -t {command(job)}"),
        ),
    )


def tunnel(
    place: Place, *, service: str, line: str, directory: str, local_port: int, remote_port: int
) -> tuple[Step, ...]:
    """A service of the VM's on a port of this computer; `line` is empty for a bare port."""
    folder = quote_path(f"{place.folder}/{directory}".rstrip("/"))
    began = (
        on_vm(
            f"starts {service} on the VM, reachable only from there",
            place,
            f"{_TMUX} new-session -d -s {command(service)} "
            f"{command('bash', '-lc', f'cd {folder} && {line}')}",
        ),
    )
    return (
        *config_ssh(place),
        *(began if line else ()),
        Step(
            f"http://localhost:{local_port} until Ctrl-C; vmctl also reconnects by itself",
            (*place.ssh, "-N", "-o", "ExitOnForwardFailure=yes",
             "-L", f"127.0.0.1:{local_port}:127.0.0.1:{remote_port}", place.host),
        ),
    )  # fmt: skip


def login(place: Place, line: str | None) -> tuple[Step, ...]:
    """A shell on the VM, or one command."""
    return (login_step(place, line),)
