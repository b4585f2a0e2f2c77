"""Fetch a zip of photos in class folders, and unpack it: `download_landscapes.py URL FOLDER`.

download_landscapes.sh calls this. Standard library only. At every moment FOLDER is absent, whole,
or what it was before; a kill loses nothing but time, since all work happens in hidden files beside.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import signal
import ssl
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30
ATTEMPTS = 5  # in a row that bring no byte
PROGRESS_EVERY_S = 2.0
RETRIED_STATUS = {408, 429, 500, 502, 503, 504}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
MARKER = ".downloaded.json"  # in FOLDER: where its photos came from, and how many there were


class Failure(Exception):
    """One sentence for the user; the program ends with code 1."""


class NotWhole(Exception):
    """The file is no zip, or a damaged one; the message says which."""


def say(text: str) -> None:
    print(text, flush=True)


def mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


# --- download


def connect(url: str, offset: int, validator: str) -> http.client.HTTPResponse:
    """The answer to GET, from `offset` on if the file is still the one of `validator`."""
    headers = {"User-Agent": "download_landscapes", "Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    request = urllib.request.Request(url, headers=headers)
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    return response


def download(url: str, part: Path) -> bool:
    """Bring the whole of `url` into `part`, going on from what is there; True if it went on."""
    note = part.with_suffix(".validator")
    resumed = False
    failures = 0
    while True:
        # What a resume may rest on: a strong ETag or a date. Without either it starts anew.
        validator = note.read_text() if note.exists() else ""
        offset = part.stat().st_size if part.exists() and validator else 0
        try:
            with connect(url, offset, validator) as response:
                starts_at = content_start(response) if offset and response.status == 206 else 0
                if starts_at != offset:  # no ranges here, or the file is another one by now
                    say("The server sends the file from its start.")
                    if starts_at != 0:
                        part.unlink(missing_ok=True)
                        continue
                elif offset:
                    say(f"Going on after {mb(offset)}.")
                resumed = starts_at > 0
                if not resumed:
                    part.unlink(missing_ok=True)
                    etag = response.headers.get("ETag", "")
                    strong = "" if etag.startswith("W/") else etag
                    note.write_text(strong or response.headers.get("Last-Modified", ""))
                if receive(response, part, starts_at):
                    return resumed
                problem = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and offset:  # the file on the server has shrunk
                part.unlink(missing_ok=True)
                note.unlink(missing_ok=True)
                continue
            if error.code not in RETRIED_STATUS:
                raise Failure(f"{url} answers HTTP {error.code} ({error.reason})") from None
            problem = f"the server answers HTTP {error.code}"
        except urllib.error.URLError as error:
            raise Failure(f"{url} cannot be reached: {error.reason}") from None
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            problem = str(error) or type(error).__name__
        size = part.stat().st_size if part.exists() else 0
        failures = 0 if size > offset else failures + 1
        if failures == ATTEMPTS:
            raise Failure(f"{url} cannot be downloaded: {problem}; run this again to go on")
        say(f"Trying again: {problem}.")
        time.sleep(min(2**failures, 10) / 2)  # gives a busy server a moment


def content_start(response: http.client.HTTPResponse) -> int:
    """Where the bytes of a 206 answer begin; -1 if it does not say."""
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else -1


def receive(response: http.client.HTTPResponse, part: Path, offset: int) -> bool:
    """Append the answer's body to `part`; False if the connection ends before the file does."""
    length = response.headers.get("Content-Length")
    total = offset + int(length) if length is not None and length.isdigit() else None
    done = offset
    start = shown = time.monotonic()
    with part.open("ab") as file:
        while chunk := response.read1(CHUNK_BYTES):  # what is there, without waiting for more
            file.write(chunk)
            done += len(chunk)
            now = time.monotonic()
            if now - shown >= PROGRESS_EVERY_S:
                shown = now
                of = f" of {mb(total)} ({100 * done // max(total, 1)} %)" if total else ""
                say(f"  {mb(done)}{of}, {(done - offset) / (now - start) / 1e6:.1f} MB/s")
    if total is not None and done < total:
        return False
    say(f"  {mb(done)} received.")
    return True


# --- unpack


def wanted_members(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    """The files to unpack: no macOS leftovers; raises if one would land outside or be a link."""
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0]
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            raise Failure(
                f"the zip is refused: {member.filename!r} would be written outside its folder"
            )
        leftover = "__MACOSX" in path.parts or path.name.startswith("._")
        if not member.is_dir() and not leftover and path.name != ".DS_Store":
            yield member


def unpack(zip_file: Path, folder: Path) -> None:
    """Unpack into a new `folder`, each file checked against its sum."""
    try:
        with zipfile.ZipFile(zip_file) as archive:
            members = list(wanted_members(archive))
            needed = sum(member.file_size for member in members)
            free = shutil.disk_usage(folder.parent).free
            if needed > free:
                raise Failure(
                    f"the disk is full: the photos need {mb(needed)}, {mb(free)} are free"
                )
            folder.mkdir()
            for member in members:
                archive.extract(member, folder)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        raise NotWhole(str(error)) from None
    except (RuntimeError, NotImplementedError) as error:  # encrypted, unknown compression
        raise NotWhole(str(error)) from None
    except ValueError as error:  # a name that no file system takes
        raise NotWhole(str(error)) from None


def count_photos(folder: Path) -> Counter[str]:
    """How many photos each class folder holds."""
    return Counter(
        file.relative_to(folder).parts[0]
        for file in folder.glob("*/**/*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


# --- the whole


@contextlib.contextmanager
def alone(lock_file: Path) -> Iterator[None]:
    """Let one download at a time into a folder; the next one waits."""
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another download into this folder is running: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def finished(folder: Path, url: str) -> bool:
    """True if `folder` holds all that an earlier run unpacked from `url`."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        return bool(marker["url"] == url and marker["photos"] <= count_photos(folder).total())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def fetch(url: str, folder: Path) -> None:
    """Make `folder` hold the photos of `url`."""
    if not url.lower().startswith(("http://", "https://")):
        raise Failure(f"LANDSCAPES_URL must start with http:// or https://, and {url!r} does not")
    if finished(folder, url):
        say(f"Already here: {folder} ({count_photos(folder).total()} photos from {url}).")
        return
    if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
        say(f"{folder} was filled by someone else and is left as it is; remove it to download.")
        return

    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    part = folder.parent / f".landscapes-{key}.part"
    whole = part.with_suffix(".zip")
    fresh, old = folder.parent / ".landscapes-new", folder.parent / ".landscapes-old"
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    resumed = whole.exists()  # from an earlier run: if it is damaged, one more try is due
    while True:
        if not whole.exists():
            say(f"Downloading {url}")
            resumed = download(url, part)
            part.replace(whole)
        try:
            unpack(whole, fresh)
            break
        except NotWhole as error:
            whole.unlink()
            shutil.rmtree(fresh, ignore_errors=True)
            if not resumed:
                raise Failure(f"{url} is not a zip of photos: {error}") from None
            say("What was there did not fit together: downloading it anew.")
    counts = count_photos(fresh)
    if not counts:
        whole.unlink()
        raise Failure(f"the zip of {url} holds no photos in class folders")
    (fresh / MARKER).write_text(json.dumps({"url": url, "photos": counts.total()}))

    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    for leftover in folder.parent.glob(".landscapes-*.*"):
        leftover.unlink()
    width = max(map(len, counts))
    for name, count in sorted(counts.items()):
        say(f"  {name:{width}} {count:6}")
    say(f"{counts.total()} photos in {folder}")


def main() -> int:
    url, target = sys.argv[1:]
    folder = Path(os.path.normpath(target))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.parent / ".landscapes.lock"):
            fetch(url, folder)
    except Failure as error:
        print(f"download_landscapes: {error}.", file=sys.stderr)
        return 1
    except OSError as error:
        where = error.filename or folder.parent
        print(f"download_landscapes: cannot write {where}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("download_landscapes: stopped; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
