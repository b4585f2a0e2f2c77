"""What is agreed on once for a job is asked again when what it installs changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.wire import PROJECT, play
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.workflows.base.agreements import values_for

SCRIPT = JobSettings("hello", "python a.py", env=("MY_TOKEN",), script="a.py")


def test_other_requirements_of_a_job_are_another_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMCTL_HOME", str(tmp_path))
    monkeypatch.setenv("MY_TOKEN", "ghp_0123456789abcdefABCDEF0123456789abcd")
    asked: list[str] = []

    def agree(question: str) -> bool:
        asked.append(question)
        return True

    for job in (SCRIPT, SCRIPT, SCRIPT._replace(requirements=("tqdm",))):
        assert play(values_for(PROJECT, job, agree)).keys() == {"MY_TOKEN"}
    assert len(asked) == 2
