"""Whose choice the Google project is, as `up` and `doctor` say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.cloud.credentials import Identity, find_access


@pytest.mark.parametrize("file", ["vmctl.toml", "pyproject.toml"])
def test_project_is_said_to_come_from_the_file_that_names_it(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VMCTL_PROJECT", raising=False)
    access = find_access("p-1", Identity(None, "a file"), Path("/home/me/fun") / file)
    assert access and access.project_source == file
    monkeypatch.setenv("VMCTL_PROJECT", "p-1")
    access = find_access("p-1", Identity(None, "a file"), Path("/home/me/fun") / file)
    assert access and access.project_source == "VMCTL_PROJECT"
