"""What vmctl does on Vertex AI, said with tar and gcloud."""

from __future__ import annotations

from collections.abc import Sequence

from vmctl.domain.gcloud.steps import Step
from vmctl.domain.settings.vertex_settings import VertexSettings
from vmctl.domain.vertex.storage_names import archive_name, run_prefix

ARCHIVE = "archive.tar.gz"


def push(settings: VertexSettings, owner: str, project: str) -> tuple[Step, ...]:
    """The project's folder goes into the bucket; vmctl's name for it is the content's SHA-256."""
    name = archive_name(owner, project, "SHA256")
    return (
        Step(
            "the folder, less what .gitignore says; vmctl heeds vmctl.toml's rules, too",
            ("tar", "--exclude-vcs", "--exclude-vcs-ignores", "-czf", f"/tmp/{ARCHIVE}", "."),
        ),
        Step(
            "sends the archive, unless there is one of that name",
            (
                "gcloud",
                "storage",
                "cp",
                "--no-clobber",
                f"/tmp/{ARCHIVE}",
                f"gs://{settings.bucket}/{name}",
            ),
        ),
    )


def run(settings: VertexSettings, google: str, name: str, config: str) -> tuple[Step, ...]:
    """A custom job; `config` is the file with its specification."""
    where = (f"--region={settings.region}", f"--project={google}")
    create = ("gcloud", "ai", "custom-jobs", "create", *where)
    return (
        Step(
            "asks for the job; in the file, SHA256 stands for the archive's",
            (*create, f"--display-name={name}", f"--config={config}"),
        ),
        Step(
            "follows its log; JOB_ID is what the line above says",
            ("gcloud", "ai", "custom-jobs", "stream-logs", "JOB_ID", *where),
        ),
    )


def fetch(
    settings: VertexSettings, owner: str, project: str, paths: Sequence[str], to: str
) -> tuple[Step, ...]:
    """What a job left comes here; RUN is its name in `vmctl ps`."""
    top = f"gs://{settings.bucket}/{run_prefix(owner, project, 'RUN')}outputs"
    return tuple(
        Step(
            f"downloads {path}, its checksum compared",
            ("gcloud", "storage", "cp", "--recursive", f"{top}/{path}", to),
        )
        for path in paths or ("*",)
    )
