"""The sandbox of an image build: a read-only view of the computer, one writable folder."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ..sandbox import IMAGE_TARGET
from ..storage import PIP_FILES

# Not shown to the build: kernel file systems, scratch space, and users' files.
HIDDEN = frozenset({
    "proc", "dev", "sys", "tmp", "run", "opt", "home", "root", "boot", "lost+found",
})  # fmt: skip
KEPT = re.compile(r"PIP_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?i:.*_proxy)")
# The user's settings that would make pip install elsewhere.
DROPPED = frozenset({
    "PIP_CONFIG_FILE", "PIP_CACHE_DIR", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_ROOT",
    "PIP_REQUIRE_VIRTUALENV", "PIP_LOG", "PIP_PYTHON", "PIP_DRY_RUN",
})  # fmt: skip
DROPPED_SETTINGS = frozenset(
    name.removeprefix("PIP_").replace("_", "-").lower() for name in DROPPED
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A folder or file of the computer, and where the build sees it."""

    source: Path
    place: Path


@dataclass(frozen=True, slots=True)
class BuildSandbox:
    """bwrap with the computer's network, target writable at /opt/python, scratch at /tmp."""

    target: Path
    scratch: Path
    shown: tuple[Shown, ...]

    def command(self, script: list[str]) -> list[str]:
        """argv that runs script in it."""
        argv = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent",
                "--new-session"]  # fmt: skip
        for entry in sorted(Path("/").iterdir()):
            if entry.name in HIDDEN:
                continue
            if entry.is_symlink():
                argv += ["--symlink", str(entry.readlink()), str(entry)]
            elif entry.is_dir() and os.access(entry, os.R_OK):
                argv += ["--ro-bind-try", str(entry), str(entry)]
        # A stub resolver keeps resolv.conf under /run.
        resolver = Path(os.path.realpath("/etc/resolv.conf"))
        if resolver.exists() and resolver.parts[1] in HIDDEN:
            argv += ["--ro-bind", str(resolver), str(resolver)]
        argv += ["--dev", "/dev", "--proc", "/proc"]
        opt = Path("/opt")
        for entry in sorted(opt.iterdir()) if opt.is_dir() else []:
            if entry.is_dir() and str(entry) != IMAGE_TARGET:
                argv += ["--ro-bind-try", str(entry), str(entry)]
        argv += ["--bind", str(self.target), IMAGE_TARGET, "--bind", str(self.scratch), "/tmp"]
        for shown in self.shown:
            argv += ["--ro-bind", str(shown.source), str(shown.place)]
        argv += ["--setenv", "HOME", "/tmp", "--setenv", "TMPDIR", "/tmp"]
        argv += ["--setenv", "PIP_CONFIG_FILE", "/tmp/pip.conf", "--chdir", "/tmp", "--"]
        return argv + script


def plain_command(script: list[str]) -> list[str]:
    """argv that runs script without namespaces; it ends with the emulator."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *script]


def prepare_environment(scratch: Path, uid: int | None) -> tuple[dict[str, str], list[Shown]]:
    """Return pip's environment and the files it names; write its settings to scratch/pip.conf."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if KEPT.fullmatch(name) and name not in DROPPED
    }
    environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
    merged = configparser.RawConfigParser()
    own = os.environ.get("PIP_CONFIG_FILE", "")
    for file in (*PIP_FILES, own):
        try:
            merged.read(Path(file).expanduser() if file else [])
        except (OSError, configparser.Error):
            continue
    values = list(environment.values())
    for section in merged.sections():
        for key in DROPPED_SETTINGS:
            merged.remove_option(section, key)
        values += [value for _, value in merged.items(section)]
    with (scratch / "pip.conf").open("w") as stream:
        merged.write(stream)
    (scratch / "pip.conf").chmod(0o644)
    shown: list[Shown] = []
    for place in sorted(find_named_paths(values)):
        if place.parts[1] not in HIDDEN or place.parts[1] == "opt":
            continue
        source = place
        if uid is not None and not is_readable_by_all(place):
            # The build's uid cannot read it: it sees a copy in the same place.
            source = scratch / f"shown-{len(shown)}"
            (shutil.copytree if place.is_dir() else shutil.copyfile)(place, source)
            for path in [source, *source.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
        shown.append(Shown(source, place))
    return environment, shown


def find_named_paths(values: list[str]) -> set[Path]:
    """Return the existing absolute paths in pip's settings, plain or as file: URLs."""
    places = set()
    for word in (word for value in values for word in value.split()):
        path = Path(word.removeprefix("file://")).expanduser()
        try:
            if path.is_absolute() and len(path.parts) > 2 and path.exists():
                places.add(path)
        except OSError:
            continue
    return places


def is_readable_by_all(path: Path) -> bool:
    """Whether a user who owns nothing can reach and read path."""
    closed = [f for f in path.resolve().parents if not f.stat().st_mode & stat.S_IXOTH]
    return not closed and bool(path.stat().st_mode & stat.S_IROTH)
