"""Folders that are nobody's project."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from vmctl.domain.settings.project_root import reason_against

HOMES = [PurePosixPath("/home/ada"), PurePosixPath("/Users/ada")]
OWN = PurePosixPath("/home/ada/.local/share/vmctl")


@pytest.mark.parametrize(
    "root",
    [
        "/", "/home", "/home/ada", "/Users", "/Users/ada", "/etc", "/etc/ssl", "/usr", "/var",
        "/tmp", "/proc/1", "/root", "/home/ada/.ssh", "/home/ada/.ssh/keys", "/home/ada/.aws",
        "/home/ada/.config", "/home/ada/.config/gcloud/legacy", "/home/ada/.local/share/vmctl",
        "/home/ada/.local/share/vmctl/data", "/home/ada/.gnupg", "/Users/ada/Library", "/opt",
    ],
)  # fmt: skip
def test_is_refused(root: str) -> None:
    assert reason_against(PurePosixPath(root), HOMES, OWN)


@pytest.mark.parametrize(
    "root",
    [
        "/home/ada/project", "/home/ada/src/.config", "/home/ada/.dotfiles", "/tmp/x", "/srv/train",
        "/opt/train", "/var/tmp/x/y", "/mnt/data/train", "/work", "/home/bob/shared", "/data",
        "/usr/src/app", "/root/project", "/home/ada/.config/nvim", "/Users/ada/Documents/x",
    ],
)  # fmt: skip
def test_is_a_project(root: str) -> None:
    assert reason_against(PurePosixPath(root), HOMES, OWN) is None
