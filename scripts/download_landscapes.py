"""Fetch a zip of photos in class folders, and unpack it into FOLDER.

download_landscapes.sh calls this. Standard library only. At every moment FOLDER is absent,
complete, or what it was before; a kill loses nothing but time, since all work happens in hidden
files next to it. Neither the server nor the zip is trusted: both have limits, and nothing of a
refused zip stays.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import resource
import shutil
import signal
import ssl
import stat
import struct
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30
SUBSTITUTE_TIMEOUT_S = 10  # for a server that has a substitute
ATTEMPTS = 5  # in a row without new bytes
CONNECTIONS = 100  # in one call at most; the next call goes on
SLOWEST = 1000  # bytes per second, over SLOW_S: a slower connection counts as cut
SLOW_S = 60.0
PROGRESS_EVERY_S = 2.0
RETRIED_STATUS = {408, 429, 500, 502, 503, 504}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
TEXT_SUFFIXES = {".txt", ".md", ".csv"}  # who took the photos, and what may be done with them
MAX_ZIP_BYTES = 20 * 10**9
MAX_FILES = 200_000
MAX_DEPTH = 20  # folders inside folders
MAX_EXPANSION = 100  # bytes that a byte of the zip may become; photos become about one
MEMORY_BYTES = 1 << 30  # of this program; a list of MAX_FILES names takes a tenth
# Errors of the disk for names and folders that no honest zip has.
BAD_NAMES = {
    errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
}  # fmt: skip
WEB = ("http://", "https://")
MARKER = ".downloaded.json"  # in FOLDER: where its photos came from, and how many there were
SHIPPED = "the project itself"  # in MARKER: nothing was downloaded
SUMS = "SHA256SUMS"  # of all files that the project brings along


class Failure(Exception):
    """One sentence for the user; the program ends with code 1."""


class Unavailable(Failure):
    """The server does not answer, or not with a zip of photos; others may be used instead."""


class DamagedZip(Exception):
    """The file is not a zip, or a damaged one; the message says which."""


class RefusedZip(Exception):
    """A zip that must not be unpacked; the message says why."""


def to_printable(text: object) -> str:
    """Untrusted text of a server or a zip on one line, without terminal sequences."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)[:300]


def say(text: str) -> None:
    print(text, flush=True)


def pause(seconds: float) -> None:
    """Give a busy server a moment."""
    time.sleep(seconds)


def format_mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


# --- download


class WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows a server to another web address, never out of TLS or to another protocol."""

    def redirect_request(  # type: ignore[no-untyped-def] # as in urllib
        self, req, fp, code, msg, headers, newurl
    ):
        schemes = ("https://",) if req.full_url.lower().startswith("https://") else WEB
        if not newurl.lower().startswith(schemes):
            fp.close()
            raise Unavailable(
                f"{req.full_url} leads to {to_printable(newurl)}, which is not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def connect(
    url: str, offset: int, validator: str, timeout_s: float = TIMEOUT_S
) -> http.client.HTTPResponse:
    """Send GET, from `offset` on if the file still has this `validator`."""
    headers = {"User-Agent": "download_landscapes", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    opener = urllib.request.build_opener(WebOnly)
    response: http.client.HTTPResponse = opener.open(
        urllib.request.Request(url, headers=headers), timeout=timeout_s
    )
    return response


def delete_part(part: Path) -> None:
    """Delete what has arrived of a zip, and its validator."""
    for path in (part, part.with_suffix(".zip"), part.with_suffix(".validator")):
        path.unlink(missing_ok=True)


def download(url: str, part: Path, timeout_s: float = TIMEOUT_S) -> bool:
    """Download all of `url` into `part`, resuming from its bytes; True if it was resumed.

    Raises Unavailable after ATTEMPTS in a row without new bytes, or after CONNECTIONS.
    """
    resumed, problem = False, ""
    failures = 0
    most = part.stat().st_size if part.exists() else 0
    for _ in range(CONNECTIONS):
        validator, length = read_validator(part)
        offset = part.stat().st_size if part.exists() and validator else 0
        try:
            with connect(url, offset, validator, timeout_s) as response:
                goes_on = offset > 0 and is_continuation(response, offset, validator, length)
                if offset and not goes_on:  # no ranges here, or the file has changed
                    say("The server sends the file from its start.")
                    delete_part(part)
                    offset = 0
                    if response.status == 206:  # a part that was not asked for
                        failures += 1
                        if failures == ATTEMPTS:
                            raise Unavailable(f"{url} cannot be downloaded: its parts do not fit")
                        continue
                if goes_on:
                    say(f"Going on after {format_mb(offset)}.")
                else:
                    start_part(part, response)
                resumed = goes_on
                if receive(response, part, offset):
                    return resumed
                problem = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and offset:  # the file on the server has shrunk
                delete_part(part)
                continue
            if error.code not in RETRIED_STATUS:
                reason = to_printable(error.reason)
                raise Unavailable(f"{url} answers HTTP {error.code} ({reason})") from None
            problem = f"the server answers HTTP {error.code}"
        except urllib.error.URLError as error:
            raise Unavailable(f"{url} cannot be reached: {to_printable(error.reason)}") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            problem = to_printable(error) or type(error).__name__
        size = part.stat().st_size if part.exists() else 0
        # a server that starts over each time sends the same bytes: nothing new
        failures = 0 if size > most else failures + 1
        most = max(most, size)
        if failures == ATTEMPTS:
            break
        say(f"Trying again: {problem}.")
        pause(min(2**failures, 10) / 2)
    else:
        problem = f"{problem} {CONNECTIONS} times"
    raise Unavailable(f"{url} cannot be downloaded: {problem}; run this again to go on")


def read_validator(part: Path) -> tuple[str, int | None]:
    """The strong ETag or date that a resume is conditional on ("" if unknown), and the length."""
    note = part.with_suffix(".validator")
    lines = note.read_text(errors="replace").split("\n") if note.exists() else []
    length = lines[1] if len(lines) > 1 else ""
    return (lines or [""])[0], int(length) if length.isascii() and length.isdigit() else None


def start_part(part: Path, response: http.client.HTTPResponse) -> None:
    """Start `part` over, and save the validator and length of the file it will be."""
    part.unlink(missing_ok=True)
    etag = response.headers.get("ETag", "")
    strong = "" if etag.startswith("W/") else etag
    validator = to_printable(strong or response.headers.get("Last-Modified", ""))
    part.with_suffix(".validator").write_text(
        f"{validator}\n{parse_content_length(response) or ''}"
    )


def is_continuation(
    response: http.client.HTTPResponse, offset: int, validator: str, length: int | None
) -> bool:
    """True if a response holds the rest of the file whose start is here."""
    start, total = parse_content_range(response)
    etag = response.headers.get("ETag")
    return (
        response.status == 206
        and start == offset
        and (etag is None or to_printable(etag) == validator or not validator.startswith('"'))
        and (length is None or total is None or total == length)
    )


def parse_content_range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """The offset of a 206 response and the length of the whole file; -1 and None if unknown."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not (start.isascii() and start.isdigit()):
        return -1, None
    return int(start), int(total) if total.isascii() and total.isdigit() else None


def parse_content_length(response: http.client.HTTPResponse) -> int | None:
    """The length of a response's body in bytes; None if unknown."""
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def receive(response: http.client.HTTPResponse, part: Path, offset: int) -> bool:
    """Append a response's body to `part`; False if the connection ends too early."""
    length = parse_content_length(response)
    total = None if length is None else offset + length
    check_room(total or 0, part.parent, offset)
    done = offset
    start = shown = slow_since = time.monotonic()
    slow_from = done
    with part.open("ab") as file:
        while chunk := response.read1(CHUNK_BYTES):  # what is there, without waiting for more
            file.write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now - slow_since >= SLOW_S:
                if done - slow_from < SLOWEST * SLOW_S:
                    return False
                slow_since, slow_from = now, done
            if now - shown >= PROGRESS_EVERY_S:
                shown = now
                of = f" of {format_mb(total)} ({100 * done // max(total, 1)} %)" if total else ""
                say(f"  {format_mb(done)}{of}, {(done - offset) / (now - start) / 1e6:.1f} MB/s")
            if total is None:  # it may never end
                check_room(done, part.parent, done)
    if total is not None and done < total:
        return False
    say(f"  {format_mb(done)} received.")
    return True


def check_room(total: int, folder: Path, done: int) -> None:
    """Raise Failure for a file of `total` bytes that is too large, here or for the disk."""
    if total > MAX_ZIP_BYTES:
        raise Failure(
            f"the zip is larger than {format_mb(MAX_ZIP_BYTES)}, which no data set here is"
        )
    free = shutil.disk_usage(folder).free
    if total - done > free:
        raise Failure(
            f"the disk is full: the zip needs {format_mb(total - done)}, {format_mb(free)} are free"
        )


# --- unpack


def select_members(archive: zipfile.ZipFile, size: int) -> Iterator[zipfile.ZipInfo]:
    """Select the files to unpack: photos and texts, but no hidden files and no macOS stubs.

    Raises RefusedZip for a zip that reaches outside, or that is made to fill disks.
    """
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise RefusedZip(f"it has more than {MAX_FILES} files")
    needed = 0
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise RefusedZip(
                f"{to_printable(repr(member.filename))} would be written outside its folder"
            )
        if len(path.parts) > MAX_DEPTH:
            raise RefusedZip(f"its folders are nested more than {MAX_DEPTH} deep")
        # Hidden files, such as repositories and editors' settings, are not part of a data set.
        hidden = any(name.startswith(".") or name == "__MACOSX" for name in path.parts)
        known = path.suffix.lower() in IMAGE_SUFFIXES | TEXT_SUFFIXES or path.name == "LICENSE"
        if member.is_dir() or hidden or not known:
            continue
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedZip(f"{to_printable(repr(member.filename))} is packed in an unusual way")
        needed += member.file_size
        if needed > max(MAX_EXPANSION * size, 10**6):
            raise RefusedZip(f"it would become {MAX_EXPANSION} times as large, as no photos do")
        member.filename = path.as_posix()  # some programs write backslashes between the names
        yield member


def unpack(zip_file: Path, folder: Path) -> None:
    """Unpack into a new `folder`, checking each file's checksum."""
    try:
        with zipfile.ZipFile(zip_file) as archive:
            members = list(select_members(archive, zip_file.stat().st_size))
            needed = sum(member.file_size for member in members)
            free = shutil.disk_usage(folder.parent).free
            if needed > free:
                raise Failure(
                    f"the disk is full: the photos need {format_mb(needed)},"
                    f" {format_mb(free)} are free"
                )
            folder.mkdir()
            for member in members:
                archive.extract(member, folder)
    except MemoryError:
        raise RefusedZip("its list of files fills the memory") from None
    except OSError as error:
        if error.errno not in BAD_NAMES:
            raise
        raise RefusedZip(f"it has a name that cannot be: {error.strerror}") from None
    except (
        zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError,
        RuntimeError, NotImplementedError,  # encrypted, unknown compression
        ValueError, LookupError, OverflowError, struct.error,  # names and numbers that cannot be
    ) as error:  # fmt: skip
        raise DamagedZip(to_printable(error)) from None


def count_photos(folder: Path) -> Counter[str]:
    """How many photos each class folder holds."""
    return Counter(
        file.relative_to(folder).parts[0]
        for file in folder.glob("*/**/*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


# --- the whole


@contextlib.contextmanager
def locked(lock_file: Path) -> Iterator[None]:
    """Hold the lock of a folder; another download into it waits."""
    # never through a link at that place
    with os.fdopen(os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another download into this folder is running: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_source(folder: Path) -> tuple[str, bool]:
    """Where the photos in `folder` came from ("" if unknown), and whether all are still there."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        count = count_photos(folder).total()
        whole = bool(count and marker["photos"] <= count)
        return to_printable(marker["url"]), whole
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", False


def delete_leftover(path: Path) -> None:
    """Delete a folder of an earlier run, or what else has its name; a link is not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def fetch(url: str, folder: Path, substitute: Path | None = None) -> None:
    """Make `folder` hold the photos of `url`, or those of `substitute` if it is unavailable.

    A folder with photos from another server keeps them rather than get the substitute.
    """
    if not url.lower().startswith(WEB):
        raise Failure(f"LANDSCAPES_URL must start with http:// or https://, and {url!r} does not")
    source, is_whole = read_source(folder)
    if is_whole and source == to_printable(url):
        say(f"Already here: {folder} ({count_photos(folder).total()} photos from {url}).")
        return
    if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
        say(f"{folder} was not filled by this script and is left as it is; remove it to download.")
        return

    fresh = folder.parent / ".landscapes-new"
    for leftover in (fresh, folder.parent / ".landscapes-old"):
        delete_leftover(leftover)
    try:
        download_and_unpack(url, fresh, SUBSTITUTE_TIMEOUT_S if substitute else TIMEOUT_S)
    except Unavailable as error:
        if substitute is None:
            raise
        shipped = f"{SHIPPED} ({hash_file(substitute / SUMS)[:12]})"
        is_others = source and not source.startswith(SHIPPED) and count_photos(folder)
        if (is_whole and source == shipped) or is_others:
            say(f"{error}. Kept: the photos of {source}. {describe_full_set()}")
            return
        copy_shipped(substitute, fresh)
        count = count_photos(fresh).total()
        say(f"{error}. Using the {count} photos of {SHIPPED}. {describe_full_set()}")
        replace_folder(fresh, folder, shipped)
        return
    replace_folder(fresh, folder, url)
    for leftover in folder.parent.glob(".landscapes-*.*"):
        leftover.unlink()


def download_and_unpack(url: str, fresh: Path, timeout_s: float) -> None:
    """Download and unpack `url` into the new folder `fresh`."""
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    part = fresh.parent / f".landscapes-{key}.part"
    whole = part.with_suffix(".zip")
    for path in (part, whole, part.with_suffix(".validator")):
        if path.is_symlink():  # not of this program, and never written through
            path.unlink()
    resumed = whole.exists()  # by an earlier run: if it is damaged, it is downloaded again
    while True:
        if not whole.exists():
            say(f"Downloading {url}")
            resumed = download(url, part, timeout_s)
            part.replace(whole)
        try:
            unpack(whole, fresh)
            if not count_photos(fresh):
                raise RefusedZip("it holds no photos in class folders")
            return
        except (DamagedZip, RefusedZip) as error:
            delete_part(part)  # the next call asks the server again: its zip may have changed
            shutil.rmtree(fresh, ignore_errors=True)
            if not resumed:
                if isinstance(error, RefusedZip):
                    raise Unavailable(f"the zip of {url} is refused: {error}") from None
                raise Unavailable(f"{url} is not a zip of photos: {error}") from None
            say("The partial download is damaged: starting over.")


def hash_file(file: Path) -> str:
    """The SHA-256 of a small file of the project, in hex."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise Failure(
            f"{file} is part of the project and cannot be read: {error.strerror}"
        ) from None


def copy_shipped(source: Path, fresh: Path) -> None:
    """Copy the project's photos into the new folder `fresh`, checking each file's checksum."""
    fresh.mkdir()
    for line in (source / SUMS).read_text(encoding="utf-8").splitlines():
        wanted, _, name = line.partition("  ")
        target = fresh / name
        if hash_file(source / name) != wanted:
            raise Failure(f"{source / name} is not the project's own file")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)


def describe_full_set() -> str:
    """The sentence with the command that fetches the public data set later."""
    on_vm = "vmctl exec " if "VMCTL_RUN" in os.environ else ""  # as it is typed on the laptop
    return f"For all photos, later: {on_vm}scripts/download_landscapes.sh"


def replace_folder(fresh: Path, folder: Path, source: str) -> None:
    """Replace `folder` by the new folder of photos, and print how many each class has."""
    counts = count_photos(fresh)
    (fresh / MARKER).write_text(json.dumps({"url": source, "photos": counts.total()}))
    old = folder.parent / ".landscapes-old"
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    shown = {to_printable(name): count for name, count in counts.items()}
    width = max(map(len, shown))
    for name, count in sorted(shown.items()):
        say(f"  {name:{width}} {count:6}")
    say(f"{counts.total()} photos in {folder}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; raises SystemExit with code 2."""
    parser = argparse.ArgumentParser(prog="download_landscapes.py", description=__doc__)
    parser.add_argument("url", metavar="URL", help="a zip with a folder of photos per class")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where they go")
    parser.add_argument(
        "--substitute", metavar="DIR", type=Path, help="photos to use if URL does not answer"
    )
    return parser.parse_args()


def main() -> int:
    flags = parse_arguments()
    folder = Path(os.path.normpath(flags.folder))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / ".landscapes.lock"):
            fetch(flags.url, folder, flags.substitute and Path(os.path.normpath(flags.substitute)))
    except Failure as error:
        print(f"download_landscapes: {error}.", file=sys.stderr)
        return 1
    except OSError as error:
        where = error.filename or folder.parent
        print(f"download_landscapes: cannot write {where}: {error.strerror}.", file=sys.stderr)
        return 1
    except MemoryError:
        print("download_landscapes: there is not enough memory.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("download_landscapes: stopped; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
