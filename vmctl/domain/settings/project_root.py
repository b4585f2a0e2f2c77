"""Which folders are nobody's project, however one came to stand in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

# these themselves
_SYSTEM = frozenset({
    "/", "/Applications", "/Library", "/System", "/Users", "/Volumes", "/bin", "/boot", "/dev",
    "/dev/shm", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/nix", "/opt", "/private",
    "/private/etc", "/private/tmp", "/private/var", "/proc", "/root", "/run", "/sbin", "/snap",
    "/srv", "/sys", "/tmp", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/share", "/var",
    "/var/lib", "/var/tmp",
})  # fmt: skip
# and all that lies in these
_WHOLLY = ("/boot", "/etc", "/private/etc", "/proc", "/sys", "/System")
# of a home
_PERSONAL = (
    ".aws", ".azure", ".cache", ".config", ".docker", ".gnupg", ".kube", ".local", ".local/share",
    ".password-store", ".ssh", "AppData", "Library", ".config/gcloud",
)  # fmt: skip
_PERSONAL_WHOLLY = (".aws", ".gnupg", ".password-store", ".ssh", ".config/gcloud")


def reason_against(
    root: PurePosixPath, homes: Iterable[PurePosixPath], own: PurePosixPath
) -> str | None:
    """What stands against pushing a folder, for a sentence that begins with its path.

    `homes` are home folders of the user's, `own` is where vmctl keeps its key. None: nothing does.
    """
    for home in homes:
        if root == home:
            return "is your home folder"
        if root in home.parents:
            return "holds your home folder"
        if root in [home / place for place in _PERSONAL] or _is_within(
            root, [home / place for place in _PERSONAL_WHOLLY]
        ):
            return "holds your settings and keys"
    if str(root) in _SYSTEM or _is_within(root, map(PurePosixPath, _WHOLLY)):
        return "is a folder of the system"
    if _is_within(root, [own]):
        return "holds vmctl's own key"
    return None


def _is_within(path: PurePosixPath, folders: Iterable[PurePosixPath]) -> bool:
    return any(folder in (path, *path.parents) for folder in folders)
