"""gcloud ai custom-jobs: Google's own command line for Vertex AI's jobs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.eventually import eventually

from .conftest import Site

pytestmark = pytest.mark.timeout(240)
POOL = "machine-type=n1-standard-4,replica-count=1,container-image-uri=debian"


def test_a_job_is_made_described_read_and_cancelled(site: Site, tmp_path: Path) -> None:
    def gcloud(*words: str) -> str:
        done = subprocess.run(
            ["gcloud", "ai", "custom-jobs", *words, "--region=europe-west4"],
            env={**os.environ, **site.environ, "HOME": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def create(name: str, *command: str) -> str:
        made = gcloud(
            "create", f"--display-name={name}", f"--worker-pool-spec={POOL}",
            f"--command={command[0]}", f"--args={','.join(command[1:])}",
        )  # fmt: skip
        found = re.search(r"projects/\S+/customJobs/\d+", made)
        assert found is not None, made
        return found[0]

    def state(name: str) -> str:
        return gcloud("describe", name, "--format=value(state)").split()[0]

    first = create("first", "/bin/echo", "hello", "world")
    eventually(lambda: state(first) == "JOB_STATE_SUCCEEDED", "it succeeds", within_s=60)
    assert "hello world" in gcloud("stream-logs", first)
    second = create("second", "/bin/sleep", "600")
    eventually(lambda: state(second) == "JOB_STATE_RUNNING", "it runs", within_s=60)
    gcloud("cancel", second)
    eventually(lambda: state(second) == "JOB_STATE_CANCELLED", "it is cancelled", within_s=60)
    listed = gcloud("list", "--filter=display_name=second", "--format=value(displayName)")
    assert "second" in listed and "first" not in listed
