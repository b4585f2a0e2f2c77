"""main(argv) -> exit code: the one place where an error becomes a message."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from vmctl.domain.errors import InvalidInput, VmctlError, exit_code_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; every failure is one sentence, a hint and an exit code."""
    import typer

    from vmctl.cli.app import app
    from vmctl.cli.options import wants_json, wants_verbose

    words = list(sys.argv[1:] if argv is None else argv)
    # the base of all that typer's own click raises, wherever that version of typer keeps it
    click_exception: type[Exception] = typer.BadParameter.__mro__[2]
    verbose, as_json = wants_verbose(words), wants_json(words)
    try:
        code = typer.main.get_command(app).main(
            args=words, prog_name="vmctl", standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except VmctlError as error:
        return _tell(error, verbose, as_json)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("\nStopped.", file=sys.stderr)
        return 130
    except click_exception as error:
        return _tell_usage(error, verbose, as_json)
    except BrokenPipeError:
        # the reader of our output left (`vmctl logs | head`): nothing more to say, nor to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _tell(_local_trouble(error), verbose, as_json)
    except Exception as error:
        hint = "Run it again with --verbose to see where." if not verbose else ""
        return _tell(
            VmctlError(f"Unexpected {type(error).__name__}: {error}", hint=hint), verbose, as_json
        )


def run() -> None:
    """The entry point of the installed `vmctl` program."""
    # a polite kill, too, ends stories in order: tunnels close, nothing half-written stays
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())


def _tell_usage(error: Any, verbose: bool, as_json: bool) -> int:
    """A command line that typer does not accept."""
    message = error.format_message()
    if not message:  # the bare program name: typer has printed the help already
        return 2
    path = error.ctx.command_path if getattr(error, "ctx", None) else "vmctl"
    return _tell(InvalidInput(message, hint=f"See: {path} --help"), verbose, as_json)


def _local_trouble(error: OSError) -> VmctlError:
    """An operating system error of this computer in one sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return InvalidInput(
            f"This computer's disk is full{where}.", hint="Free some space, then run it again."
        )
    what = error.strerror or str(error)
    name = f": {error.filename}" if error.filename else ""
    return VmctlError(f"{what}{name}", hint="Run it again with --verbose to see where.")


def _tell(error: VmctlError, verbose: bool, as_json: bool) -> int:
    code = exit_code_of(error)
    if verbose:
        import traceback

        traceback.print_exc()
    if as_json:
        import json

        body = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        print(json.dumps({**body, "exit_code": code}), file=sys.stderr)
        return code
    from vmctl.cli.render import error_lines

    for line in error_lines(error.message, error.hint, sys.stderr):
        print(line, file=sys.stderr)
    return code


if __name__ == "__main__":
    run()
