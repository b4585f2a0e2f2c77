"""`python -m vmctl.emulator`: serve the embedded Compute Engine, or build an image."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

LOG_BYTES = 5_000_000
EXIT_INPUT = 2
EXIT_CONFLICT = 4


def default_home() -> Path:
    """Return the default folder of the emulator."""
    if os.environ.get("VMCTL_EMULATOR_HOME"):
        return Path(os.environ["VMCTL_EMULATOR_HOME"]).expanduser()
    if os.geteuid() == 0:  # machines run under another uid, which cannot enter root's home
        return Path("/var/lib/vmctl-emulator")
    import platformdirs

    return Path(platformdirs.user_data_dir("vmctl")) / "emulator"


def default_images() -> Path:
    """Return the default folder of built images."""
    if os.environ.get("VMCTL_EMULATOR_IMAGES"):
        return Path(os.environ["VMCTL_EMULATOR_IMAGES"])
    if os.geteuid() == 0:
        return Path("/var/cache/vmctl/images")
    import platformdirs

    return Path(platformdirs.user_cache_dir("vmctl")) / "images"


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(prog="python -m vmctl.emulator", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the Compute Engine API on 127.0.0.1")
    serve.add_argument("--port", type=int, help="default: the last one, else a free one")
    serve.add_argument(
        "--clock", default="real", help="real, scaled:RATE or stepped (default: real)"
    )
    serve.add_argument("--metadata-only", action="store_true", help="boot no machines")
    image = commands.add_parser("image", help="build an image before the first machine needs it")
    actions = image.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="build an image unless it exists")
    build.add_argument("family", help="pytorch, base, or a full family name")
    for command in (serve, build):
        command.add_argument("--home", type=Path, default=None)
        command.add_argument("--images", type=Path, default=None)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 bad input, 4 another emulator is running."""
    from .machines.file_modes import UMASK

    arguments = parser().parse_args(argv)
    os.umask(UMASK)
    home = (arguments.home or default_home()).absolute()
    images = (arguments.images or default_images()).absolute()
    if arguments.command == "image":
        return build_image(arguments.family, home, images)
    return serve(home, images, arguments.port, arguments.clock, arguments.metadata_only)


def serve(
    home: Path, images: Path, port: int | None, clock: str, metadata_only: bool = False
) -> int:
    """Serve until a signal or the admin route stops it; returns the exit code."""
    from . import server
    from .clock import make_clock
    from .cloud.machine_host import CannotHost

    try:
        make_clock(clock, None)
        with server.hold(home):
            _log_to(home / "emulator.log")
            asyncio.run(server.serve(server.Options(home, images, port, clock, metadata_only)))
    except CannotHost as error:
        print(f"The emulator cannot serve: {error}", file=sys.stderr)
        return 1
    except server.AlreadyRunning:
        print(f"An emulator is already running for {home}{_who(home)}.", file=sys.stderr)
        return EXIT_CONFLICT
    except (ValueError, OSError) as error:
        print(f"The emulator cannot serve: {error}", file=sys.stderr)
        return EXIT_INPUT
    return 0


def build_image(family: str, home: Path, images: Path) -> int:
    """Build the image of a family, reporting each step; prints its folder."""
    from .cloud.catalog import IMAGES
    from .cloud.machine_host import EventLoopBackend
    from .machines import MachineError, MachineHost

    machine = next((i.machine for i in IMAGES if family in (i.machine, i.family)), None)
    if machine is None:
        known = ", ".join(["pytorch", "slurm", "base", *(i.family for i in IMAGES)])
        print(f"Unknown image family {family!r}: use one of {known}.", file=sys.stderr)
        return EXIT_INPUT
    loop = asyncio.new_event_loop()
    host = MachineHost(home, images, EventLoopBackend(loop))
    try:
        host.prepare_image(machine, lambda message: print(message, file=sys.stderr, flush=True))
        if (folder := host.image_folder(machine)) is not None:
            print(folder)
    except MachineError as error:
        print(f"The image {machine} could not be built: {error}", file=sys.stderr)
        return 1
    finally:
        host.close()
        loop.close()
    return 0


def _who(home: Path) -> str:
    try:
        return f" (pid {json.loads((home / 'emulator.json').read_bytes())['pid']})"
    except (OSError, ValueError, KeyError):
        return ""


def _log_to(file: Path) -> None:
    handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    logging.basicConfig(
        level=logging.INFO,
        handlers=[handler],
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


if __name__ == "__main__":
    sys.exit(main())
