"""push, pull, fetch, scp: files there and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vmctl.cli.completion import PATHS
from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import argument, option
from vmctl.cli.terminal import sinks
from vmctl.domain.sync.rsync_output import Via
from vmctl.domain.text import one_line

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.workflows.sync.push import PushResult

PANEL = Panel("Files")
SHOWN = 20  # lines of a list before it is cut


@PANEL.command(
    "push",
    takes_target=True,
    takes_service=True,
    examples="vmctl push\nvmctl push --dry-run\nvmctl push --via rsync",
    print_gcloud=lambda lines, context, **_: lines.of_push(context.project()),
)
def push(
    context: Context,
    dry_run: Annotated[
        bool, option("--dry-run", help="Show what would be pushed, and push nothing.")
    ] = False,
    force: Annotated[
        bool,
        option(
            "--force",
            help="Override the safety checks: overwrite what was changed or made on the VM, "
            "replace another folder's push, delete nearly everything.",
        ),
    ] = False,
    via: Annotated[
        Via,
        option(
            "--via",
            help="How to send the files: one compressed stream (with rsync's delta for large "
            "files that the VM has in an older version), rsync for all, or scp -r.",
        ),
    ] = Via.STREAM,
) -> None:
    """Mirror the project folder to the VM.

    Files excluded by .gitignore or by `exclude` in vmctl.toml are not pushed, nor are .git and
    virtual environments; on the VM only files from an earlier push are ever deleted. Nothing
    there changes before everything has arrived and is verified by SHA-256; an interrupted push
    resumes where it stopped when it is run again. What was changed on the VM is not
    overwritten: bring it back with `vmctl pull`, or overwrite it with --force.

    What looks like a secret is named and asked about before it is first sent. Without a
    terminal that ends the push; --yes sends what was named.

    On Vertex AI: the folder goes into the target's bucket as one archive, named by its content.
    """
    project, screen = context.project(), context.screen()
    if project.target is not None and project.target.vertex is not None:
        from vmctl.workflows.vertex.archive import push_archive

        screen.document(screen.play(push_archive(project, dry_run, agree=screen.agree)))
        return
    from vmctl.workflows.sync.push import push as story

    result = screen.play(story(project, dry_run=dry_run, force=force, via=via, agree=screen.agree))
    screen.document(result)
    if dry_run:
        _show_plan(screen, result)


@PANEL.command(
    "fetch",
    takes_target=True,
    takes_service=True,
    examples="vmctl fetch\nvmctl fetch unet.pth runs --to results\n"
    "vmctl fetch '*.png' 'runs/**/events*' --parents\nvmctl fetch --wait",
    print_gcloud=lambda lines, context, paths, to, **_: lines.of_fetch(
        context.project(), paths or (), to
    ),
)
def fetch(
    context: Context,
    paths: Annotated[
        list[str] | None,
        argument(
            metavar="PATH",
            help="Looked for in the last run's outputs, its job's folder, the project's root; "
            "a quoted pattern ('*.pth', 'runs/**/x') is matched on the VM.",
            autocompletion=PATHS,
        ),
    ] = None,
    to: Annotated[
        Path | None, option("--to", metavar="DIR", help="Save here instead of '.'.")
    ] = None,
    force: Annotated[
        bool, option("--force", help="Fetch even a file that is still being written.")
    ] = False,
    wait: Annotated[
        bool,
        option(
            "--wait",
            help="Wait for a file that is still being written, and for what a running job has "
            "not written yet; a week at most.",
        ),
    ] = False,
    parents: Annotated[
        bool,
        option(
            "--parents",
            help="Keep the paths below the project's folder: a/x.pth is saved as a/x.pth, "
            "not as x.pth.",
        ),
    ] = False,
) -> None:
    """Download files, verified by SHA-256; without a path: the job's outputs.

    An interrupted transfer resumes where it stopped; a wrong checksum is an error, never a
    file. Identical local files are not sent again. Files are saved under their base names; two
    with the same name need --parents or a --to DIR each. On Vertex AI: the last job's outputs,
    verified by the checksums of the bucket.
    """
    project, screen = context.project(), context.screen()
    if project.target is not None and project.target.vertex is not None:
        from vmctl.workflows.vertex.fetch import fetch_outputs

        told = fetch_outputs(project, tuple(paths or ()), to=to, parents=parents)
        screen.document(screen.play(told))
        return
    from vmctl.workflows.sync.fetch import fetch as story

    result = screen.play(
        story(
            project,
            tuple(paths or ()),
            to=to,
            force=force,
            wait=wait,
            parents=parents,
        )
    )
    screen.document(result)


@PANEL.command(
    "pull",
    takes_target=True,
    examples="vmctl pull --dry-run\nvmctl pull\nvmctl pull notebook.ipynb --force",
)
def pull(
    context: Context,
    paths: Annotated[
        list[str] | None,
        argument(
            metavar="PATH",
            help="Files or folders of the project, by their local paths; without one: "
            "everything that was pushed.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Show what would be pulled, and change nothing.")
    ] = False,
    force: Annotated[
        bool,
        option(
            "--force",
            help="Take the VM's side where both changed, and delete here what was deleted there.",
        ),
    ] = False,
) -> None:
    """Bring back what changed on the VM since it was pushed.

    Files that also changed here are left alone and listed (exit code 4), as is what was
    deleted on the VM; the others are pulled. A push after that has nothing to do. A file that
    was made on the VM is pulled when you name it or its folder; a file that programs on this
    computer use by its name (.envrc, .vscode, *.pth) only when you name exactly that file.
    For the outputs of a run use fetch.
    """
    from vmctl.domain.errors import Conflict
    from vmctl.workflows.sync.pull import pull as story

    screen = context.screen()
    result = screen.play(story(context.project(), paths or (), dry_run=dry_run, force=force))
    screen.document(result)
    if dry_run:
        for file in result.files:
            screen.say(f"would pull: {one_line(file.path)}")
        for path in result.links:
            screen.say(f"would pull: {one_line(path)}")
        for path in result.deleted:
            screen.say(f"would be deleted here: {one_line(path)}")
        for refused in result.conflicts:
            screen.say(f"left alone: {one_line(refused.path)} {refused.why}")
    elif result.conflicts:
        lines = [f"{one_line(refused.path)} {refused.why}" for refused in result.conflicts[:SHOWN]]
        if len(result.conflicts) > SHOWN:
            lines.append(f"… and {len(result.conflicts) - SHOWN} more (all: --json)")
        raise Conflict(
            "\n  ".join(["Left alone:", *lines]) if len(lines) > 1 else f"{lines[0]}.",
            hint="To take the VM's version: vmctl pull --force PATH; yours: vmctl push --force; "
            "to compare: vmctl fetch PATH --to DIR",
        )


@PANEL.command(
    "scp",
    takes_target=True,
    passes_words_on=True,
    passes_options_on=True,
    examples="vmctl scp notes.txt :Workspace/\nvmctl scp -r :Workspace/runs .",
)
def scp(
    context: Context,
    words: Annotated[
        list[str],
        argument(
            metavar="PATH",
            help="Sources, then the target; a leading ':' means on the VM. Options: -r -p -q -C "
            "-v.",
        ),
    ],
) -> int:
    """Copy with scp over the warm connection; ':path' is a path on the VM."""
    from vmctl.workflows.session.shell import scp as copy

    quiet = ("-q",) if context.quiet else ()
    return copy(context.project(), (*quiet, *words), sinks())


def _show_plan(screen: Screen, result: PushResult) -> None:
    """What a push would do: what moves, how much, the largest, what stays here and why."""
    from vmctl.cli.text import format_bytes

    total = format_bytes(result.bytes)
    moving = format_bytes(result.moved_bytes)
    screen.say(f"To {result.destination}: {result.files} files, {total} in all, {moving} to move.")
    for heading, paths in (("Would move", result.moved), ("Would delete there", result.deleted)):
        if paths:
            screen.say(f"{heading} {len(paths)}:")
            for path in paths[:SHOWN]:
                screen.say(f"  {one_line(path)}")
            if len(paths) > SHOWN:
                screen.say(f"  … and {len(paths) - SHOWN} more (all of them: --json)")
    if result.refused:
        screen.say(f"Would refuse, because the VM has its own version of {len(result.refused)}:")
        for path in result.refused[:SHOWN]:
            screen.say(f"  {one_line(path)}")
    if result.largest:
        screen.say("Largest:")
        for size in result.largest:
            screen.say(f"  {format_bytes(size.bytes):>8}  {one_line(size.path)}")
    if result.left_out:
        screen.say("Left out:")
        for group in result.left_out:
            such_as = one_line(group.examples[0])
            screen.say(f"  {group.count:>8}  by {one_line(group.rule)}, such as {such_as}")
