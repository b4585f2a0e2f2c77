"""main(argv) -> exit code: the one place where an error becomes a message."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from vmctl.domain.errors import InvalidInput, VmctlError, connection_error, exit_code_of
from vmctl.domain.search_path import without_relative

if TYPE_CHECKING:
    from vmctl.cli.options import Invocation


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; every failure is one sentence, a hint and an exit code."""
    from vmctl.cli import terminal
    from vmctl.cli.options import Invocation

    words = list(sys.argv[1:] if argv is None else argv)
    terminal.guard()
    # ssh, rsync or gcloud of the current folder's own would run where those are not installed
    os.environ["PATH"] = without_relative(os.environ.get("PATH", os.defpath))
    invocation = Invocation(words)
    try:
        code = _run(invocation)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except VmctlError as error:
        return _show_error(error, invocation)
    except KeyboardInterrupt:
        terminal.note("\nStopped.")
        return 130
    except BrokenPipeError:
        _drop_output()
        return 0
    except OSError as error:
        return _show_error(_os_error(error), invocation)
    except Exception as error:
        hint = "Run it again with --verbose to see where."
        unexpected = VmctlError(f"Unexpected {type(error).__name__}: {error}", hint=hint)
        return _show_error(unexpected, invocation)
    finally:
        with contextlib.suppress(OSError, ValueError):
            terminal.settle()


def _run(invocation: Invocation) -> object:
    """Run the line: read as a plain one where it is, else by typer."""
    from vmctl.cli import plain_line

    plain = plain_line.read(invocation)
    if plain is not None:
        try:
            return plain()
        except BrokenPipeError:  # these two end as they do in typer
            _drop_output()
            return 1
        except EOFError:
            raise KeyboardInterrupt from None
    import typer

    from vmctl.cli.app import command_tree

    # the base of all that typer's own click raises, wherever that version of typer keeps it
    click_exception: type[Exception] = typer.BadParameter.__mro__[2]
    try:
        return command_tree().main(
            args=list(invocation.words), prog_name="vmctl", standalone_mode=False, obj=invocation
        )
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except click_exception as error:
        return _show_usage_error(error, invocation)


def _drop_output() -> None:
    """The reader of our output left (`vmctl logs | head`): nothing more to say, nor to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """The entry point of the installed `vmctl` program."""
    # most of what a command allocates is code that it imports: it is not garbage
    gc.set_threshold(100_000, 20, 20)
    # a polite kill, too, ends stories in order: tunnels close, nothing half-written stays
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code = main()
    except KeyboardInterrupt:  # while the program was still being loaded
        code = 130
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    leave(code)


def leave(code: int) -> NoReturn:
    """End the program, at once where a background request is still running that nothing needs.

    A thread that the interpreter finds inside a compiled library when it takes itself apart ends
    the process with SIGABRT, whatever the command's exit code was.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        for flush in (sys.stdout.flush, sys.stderr.flush):
            with contextlib.suppress(OSError, ValueError):
                flush()
        os._exit(code)
    gc.freeze()  # nor is it looked through once more at the end
    sys.exit(code)


def _show_usage_error(error: Any, invocation: Invocation) -> int:
    """A command line that typer does not accept."""
    message = error.format_message()
    if not message:  # the bare program name: typer has printed the help already
        return 2
    path = error.ctx.command_path if getattr(error, "ctx", None) else "vmctl"
    return _show_error(InvalidInput(message, hint=f"See: {path} --help"), invocation)


_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def _os_error(error: OSError) -> VmctlError:
    """An operating system error of this computer in one sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return InvalidInput(
            f"This computer's disk is full{where}.", hint="Free some space, then run it again."
        )
    if isinstance(error, ConnectionError):
        return connection_error()
    what = error.strerror or str(error)
    if error.filename and error.errno in _NO_ACCESS:
        return InvalidInput(
            f"{error.filename} cannot be used: {what}.",
            hint="Check the path and its permissions.",
        )
    name = f": {error.filename}" if error.filename else ""
    return VmctlError(f"{what}{name}", hint="Run it again with --verbose to see where.")


def _show_error(error: VmctlError, invocation: Invocation) -> int:
    from vmctl.cli import terminal

    code, wording = exit_code_of(error), invocation.wording
    if invocation.wants_verbose:
        import traceback

        terminal.note(traceback.format_exc(), end="")
    if invocation.wants_json:
        body: dict[str, Any] = {
            "error": type(error).__name__,
            "message": wording(error.message),
            "hint": wording(error.hint),
        }
        if error.attempts:
            body["attempts"] = list(error.attempts)
        if error.evidence:
            body["evidence"] = list(error.evidence)
        terminal.document({**body, "exit_code": code}, errors=True)
        return code
    from vmctl.cli.attempts import format_attempts
    from vmctl.cli.text import format_error

    for line in format_attempts(error.attempts):
        terminal.note(line)
    for line in error.evidence:
        terminal.note(f"  {line}")
    for parts in format_error(wording(error.message), wording(error.hint)):
        terminal.note(*parts)
    return code


if __name__ == "__main__":
    run()
