"""What vmctl does on Vertex AI, said with tar and gcloud."""

from __future__ import annotations

from vmctl.domain.gcloud.steps import Step
from vmctl.domain.settings.vertex_settings import VertexSettings
from vmctl.domain.vertex.storage_names import archive_name

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
