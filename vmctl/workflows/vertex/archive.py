"""What a push would send, as one archive in the bucket, named by its content."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.cloud.storage.bucket import Bucket, open_bucket
from vmctl.domain.errors import Conflict
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.vertex.refusal import check_location
from vmctl.domain.vertex.storage_names import archive_name
from vmctl.ssh.transfer.upload import open_file
from vmctl.workflows.base.agreements import Agree, agree_on_files
from vmctl.workflows.base.site import ensure_emulator
from vmctl.workflows.sync.project_root import refuse_unfit_root
from vmctl.workflows.sync.scan import Scan, SecretsFound

if TYPE_CHECKING:
    from vmctl.config import Project
    from vmctl.domain.settings.vertex_settings import VertexSettings

STEP = "archive"


@dataclass(frozen=True, slots=True)
class ArchiveResult:
    """What a push to a bucket did; `sent` is False for content that was there already."""

    archive: str  # gs://…
    files: int
    bytes: int  # of the archive
    sent: bool
    dry_run: bool
    seconds: float


def push_archive(
    project: Project, dry_run: bool = False, *, agree: Agree | None, clock: Clock | None = None
) -> Story[ArchiveResult]:
    """The project's folder is in the bucket as an archive; unchanged content is not sent again.

    Raises InvalidInput for a bucket in another region or a folder that is no project's, NotFound
    for no bucket, and asks before what looks like a secret is sent for the first time.
    """
    clock = clock or Clock()
    assert project.target is not None
    assert project.target.vertex is not None
    settings = project.target.vertex
    began = clock.monotonic()
    refuse_unfit_root(project.root, project.file)
    if project.local:
        yield from ensure_emulator(clock)
    bucket = open_bucket(project, settings, clock)
    check_location(bucket.location(), settings)
    yield Started(STEP, f"Packing {project.root.name}")
    scan = yield from _scan(project, agree, settings)
    with tempfile.TemporaryDirectory(prefix="vmctl-") as folder:
        file = Path(folder, "archive.tar.gz")
        count = _pack(project.root, scan, file)
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        name = archive_name(project.owner, project.name, digest)
        sent = yield from _send(bucket, file, name, dry_run)
        size = file.stat().st_size
    if not dry_run:
        scan.save()
    seconds = round(clock.monotonic() - began, 3)
    what = "would be sent" if dry_run and sent else "sent" if sent else "is there already"
    where = f"gs://{settings.bucket}/{name}"
    yield Finished(STEP, f"{count} files, {size} bytes: {where} {what}", seconds)
    return ArchiveResult(where, count, size, sent and not dry_run, dry_run, seconds)


def _send(bucket: Bucket, file: Path, name: str, dry_run: bool) -> Story[bool]:
    if dry_run:
        return bucket.find(name) is None
    return (yield from bucket.send(file, name, STEP))


def _scan(project: Project, agree: Agree | None, settings: VertexSettings) -> Story[Scan]:
    """The folder, once what looks like a secret in it was agreed to."""
    key = f"vertex-{hashlib.sha256(settings.bucket.encode()).hexdigest()[:16]}-{project.name}"
    while True:
        scan = Scan(project, key)
        try:
            scan.wait_hashed()
        except SecretsFound as found:
            yield from agree_on_files(project, found.paths, agree)
        else:
            return scan


def _pack(root: Path, scan: Scan, file: Path) -> int:
    """Write the archive; the same content makes the same bytes, whoever owns it and when."""
    with (
        file.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for entry in scan.selection.entries:
            item = tarfile.TarInfo(entry.path)
            item.mode = 0o755 if entry.kind == "dir" or entry.mode & 0o100 else 0o644
            if entry.kind == "dir":
                item.type = tarfile.DIRTYPE
                archive.addfile(item)
            elif entry.kind == "link":
                item.type, item.linkname = tarfile.SYMTYPE, entry.link
                archive.addfile(item)
            else:
                item.size = entry.size
                _add(archive, item, root)
    return len(scan.selection.entries)


def _add(archive: tarfile.TarFile, item: tarfile.TarInfo, root: Path) -> None:
    # through no link: what stands in a file's place by now is not sent
    with open_file(root, item.name) as stream, suppress(OSError):  # tarfile's: it became shorter
        archive.addfile(item, stream)
        if not stream.read(1):
            return
    raise Conflict(f"{item.name} changed while it was being read.", hint="Try again: vmctl push")
