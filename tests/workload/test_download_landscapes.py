"""scripts/download_landscapes.sh against a real HTTP server on 127.0.0.1."""

import functools
import hashlib
import http.server
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from conftest import ROOT
from download_site import MAC, MEMBERS, PHOTO, make_zip

SCRIPTS = ("download_landscapes.sh", "download_landscapes.py")
SHIPPED = ROOT / "workload/landscapes"
BROUGHT = ["field/1_a.jpg", "field/1_b.jpg"]


@pytest.fixture
def project(tmp_path):
    """A project folder with an awkward name: the scripts, and two photos that came with it."""
    root = tmp_path / "mein Projekt's ä"
    (root / "scripts").mkdir(parents=True)
    shipped = root / "workload/landscapes"
    (shipped / "field").mkdir(parents=True)
    sums = [f"{hashlib.sha256(PHOTO).hexdigest()}  {name}\n" for name in BROUGHT]
    (shipped / "SHA256SUMS").write_text("".join(sums))
    for name in BROUGHT:
        (shipped / name).write_bytes(PHOTO)
    for name in SCRIPTS:
        shutil.copy2(ROOT / "scripts" / name, root / "scripts" / name)
    return root


def start(project, url, **options):
    """The script as a job runs it: from workload/, with LANDSCAPES_URL set."""
    return subprocess.Popen(
        ["../scripts/download_landscapes.sh"],
        cwd=project / "workload",
        env=os.environ | {"LANDSCAPES_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_until(condition, site, process):
    """What `condition` returns once it is true; fails if the process ends first or in 60 s."""
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        site.hold.wait(0.01)
    return value


def parts(project):
    """The unfinished downloads that hold some bytes."""
    found = (project / "data").glob(".landscapes-*.part")
    return [part for part in found if part.stat().st_size]


def download(project, url, code=0, **options):
    with start(project, url, **options) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == code, output + errors
    if code:
        assert len(errors.splitlines()) == 1, errors
        assert errors.startswith("download_landscapes: ")
    else:
        assert errors == ""
    return output + errors


def unpacked(project):
    """The photos of the project, and a look that nothing half-done lies beside them."""
    data = project / "data"
    assert {path.name for path in data.iterdir()} == {".landscapes.lock", "landscapes"}
    files = {
        p.relative_to(data / "landscapes").as_posix(): p.read_bytes()
        for p in data.glob("landscapes/*/*")
    }
    assert all(content in (PHOTO, PHOTO[::-1]) for content in files.values())
    return sorted(files)


def test_it_unpacks_the_photos_and_counts_them(project, site):
    output = download(project, site.url)
    assert unpacked(project) == sorted(MEMBERS)
    assert re.search(r"city +2\n +lake +1\n3 photos in ", output)
    assert "\r" not in output


def test_a_second_run_downloads_nothing_and_says_so(project, site):
    download(project, site.url)
    assert "Already here" in download(project, site.url)
    assert site.requests == [None]


def test_a_folder_that_lost_photos_is_made_whole(project, site):
    download(project, site.url)
    (project / "data/landscapes/lake/1.png").unlink()
    download(project, site.url)
    assert unpacked(project) == sorted(MEMBERS)


def test_another_url_replaces_what_the_first_one_brought(project, site):
    download(project, site.url)
    site.content = make_zip(["road/2.jpg"])
    download(project, site.url + "?second")
    assert unpacked(project) == ["road/2.jpg"]


def test_photos_of_the_users_own_are_left_alone(project, site):
    (project / "data/landscapes/mine").mkdir(parents=True)
    (project / "data/landscapes/mine/1.jpg").write_bytes(PHOTO)
    assert "left as it is" in download(project, site.url)
    assert unpacked(project) == ["mine/1.jpg"]
    assert site.requests == []


def test_a_cut_connection_is_resumed_where_it_stopped(project, site):
    site.cut_after = [70_000, 10_000]
    output = download(project, site.url)
    assert site.requests == [None, "bytes=70000-", "bytes=80000-"]
    assert "Trying again" in output
    assert unpacked(project) == sorted(MEMBERS)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_download_goes_on_in_the_next_run(project, site, signum):
    site.hold = threading.Event()
    with start(project, site.url) as process:
        part = wait_until(lambda: parts(project), site, process)
        process.send_signal(signum)
        assert process.wait() == {9: -9, 15: 143, 2: 130}[signum]
        assert "Traceback" not in process.stderr.read()
    kept = part[0].stat().st_size
    site.hold.set()
    assert not (project / "data/landscapes").exists()
    assert "Going on after" in download(project, site.url)
    assert site.requests == [None, f"bytes={kept}-"]
    assert unpacked(project) == sorted(MEMBERS)


def test_a_server_without_ranges_sends_it_all_again(project, site):
    site.ranges = False
    site.cut_after = [70_000]
    download(project, site.url)
    assert site.requests == [None, "bytes=70000-"]
    assert unpacked(project) == sorted(MEMBERS)


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_trustworthy_validator_nothing_is_resumed(project, site, etag):
    site.etag = etag
    site.cut_after = [70_000]
    download(project, site.url)
    assert site.requests == [None, None]
    assert unpacked(project) == sorted(MEMBERS)


def interrupted(project, site):
    """Leave the first 70,000 bytes of the site's file, as a kill would."""
    site.hold = threading.Event()
    with start(project, site.url) as process:
        part = wait_until(lambda: parts(project), site, process)
        process.kill()
    site.hold.set()
    part[0].write_bytes(site.content[:70_000])
    part[0].with_suffix(".validator").write_text(site.etag)
    site.requests.clear()


def test_a_file_that_changed_meanwhile_is_not_mixed(project, site):
    interrupted(project, site)
    site.content, site.etag = make_zip(MEMBERS, PHOTO[::-1]), '"two"'
    download(project, site.url)
    assert site.requests == ["bytes=70000-"]
    assert (project / "data/landscapes/lake/1.png").read_bytes() == PHOTO[::-1]
    assert unpacked(project) == sorted(MEMBERS)


def test_a_file_that_changed_unnoticed_is_fetched_again(project, site):
    interrupted(project, site)
    site.content = make_zip(MEMBERS, PHOTO[::-1])  # under the same ETag
    assert "starting over" in download(project, site.url)
    assert site.requests == ["bytes=70000-", None]
    assert (project / "data/landscapes/city/a b.jpg").read_bytes() == PHOTO[::-1]


def test_a_file_that_shrank_is_fetched_again(project, site):
    interrupted(project, site)
    site.content = make_zip(["road/2.jpg"])
    download(project, site.url)
    assert site.requests == ["bytes=70000-", None]
    assert unpacked(project) == ["road/2.jpg"]


def test_a_kill_between_download_and_unpacking_costs_no_second_download(project, site):
    interrupted(project, site)
    (part,) = (project / "data").glob(".landscapes-*.part")
    part.unlink()
    part.with_suffix(".zip").write_bytes(site.content)
    (project / "data/.landscapes-new/city").mkdir(parents=True)
    (project / "data/.landscapes-new/city/half.jpg").write_bytes(PHOTO[:10])
    download(project, site.url)
    assert site.requests == []
    assert unpacked(project) == sorted(MEMBERS)


def test_two_downloads_at_once_are_one(project, site):
    site.hold = threading.Event()
    with start(project, site.url) as first:
        wait_until(lambda: site.requests, site, first)
        with start(project, site.url) as second:
            assert "waiting" in second.stdout.readline()
            site.hold.set()
            assert "Already here" in second.stdout.read()
        first.communicate()
    assert (first.returncode, second.returncode, site.requests) == (0, 0, [None])
    assert unpacked(project) == sorted(MEMBERS)


def test_a_busy_server_is_asked_again(project, site):
    site.status = [503, 429]
    download(project, site.url)
    assert unpacked(project) == sorted(MEMBERS)


@pytest.mark.parametrize("status", [403, 404])
def test_an_http_error_is_one_sentence(project, site, status):
    site.status = [status]
    assert f"HTTP {status}" in download(project, site.url, code=1)
    assert not (project / "data/landscapes").exists()


def test_no_server_is_one_sentence(project):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x.zip"
        assert "cannot be reached" in download(project, url, code=1)


@pytest.mark.parametrize("url", ["photos.zip", "file:///etc/passwd", "ftp://127.0.0.1/x.zip"])
def test_a_url_that_is_none_is_one_sentence(project, url):
    assert "must start with http" in download(project, url, code=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>Sign in</html>",
        make_zip(MEMBERS)[:-100],
        make_zip(MEMBERS).replace(PHOTO[:9], b"damaged!!"),
    ],
)
def test_what_is_no_whole_zip_is_one_sentence(project, site, content):
    site.content = content
    assert "is not a zip of photos" in download(project, site.url, code=1)
    assert not (project / "data/landscapes").exists()
    site.content = make_zip(MEMBERS)  # and the next run is not spoilt by it
    download(project, site.url)
    assert unpacked(project) == sorted(MEMBERS)


def test_a_zip_without_photos_is_one_sentence(project, site):
    site.content = make_zip(["README.txt", "photo.jpg", *MAC])
    assert "holds no photos" in download(project, site.url, code=1)
    assert not (project / "data/landscapes").exists()


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    "evil",
    [
        "../evil.jpg",
        "city/../../../evil.jpg",
        "/tmp/evil.jpg",
        "..\\evil.jpg",
        "C:/evil.jpg",
        link("city/link.jpg"),
    ],
)
def test_a_zip_that_reaches_outside_is_refused_whole(project, site, evil):
    site.content = make_zip([*MEMBERS, evil])
    assert "outside its folder" in download(project, site.url, code=1)
    assert not (project / "data/landscapes").exists()
    assert not list(project.parent.rglob("*evil*"))


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(project, site):
    def little_space():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    error = download(project, site.url, code=1, preexec_fn=little_space)
    assert "cannot write" in error and str(project / "data") in error
    assert not (project / "data/landscapes").exists()
    download(project, site.url)
    assert site.requests == [None, "bytes=60000-"]
    assert unpacked(project) == sorted(MEMBERS)


def test_a_plain_file_server_will_do(project, tmp_path):
    (tmp_path / "photos.zip").write_bytes(make_zip(MEMBERS))
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        download(project, f"http://127.0.0.1:{server.server_address[1]}/photos.zip")
        server.shutdown()
        thread.join()
    marker = json.loads((project / "data/landscapes/.downloaded.json").read_text())
    assert marker["photos"] == 3
    assert unpacked(project) == sorted(MEMBERS)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


# --- what came with the project, while the public data set does not answer


def fall_back(project, url, code=0, **environ):
    """The program as the script starts it without LANDSCAPES_URL, with `url` as the public set."""
    command = [sys.executable, "-I", "scripts/download_landscapes.py", url, "data/landscapes"]
    done = subprocess.run(
        [*command, "--substitute", "workload/landscapes"],
        cwd=project, env=os.environ | environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_script_falls_back_and_says_so_in_one_line(project):
    environ = os.environ | {"https_proxy": "http://127.0.0.1:1", "no_proxy": ""}  # no way out
    environ.pop("LANDSCAPES_URL", None)
    done = subprocess.run(
        ["scripts/download_landscapes.sh"],
        cwd=project, env=environ | {"VMCTL_RUN": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if "cannot be reached" in line]
    assert "Using the 2 photos of the project itself" in line
    assert line.endswith("For all photos, later: vmctl exec scripts/download_landscapes.sh")
    assert unpacked(project) == BROUGHT


def test_the_public_data_set_comes_first(project, site):
    assert "project itself" not in fall_back(project, site.url)
    assert unpacked(project) == sorted(MEMBERS)


@pytest.mark.parametrize("fault", ["404", "a page", "a bad zip"])
def test_a_server_without_the_photos_is_as_good_as_none(project, site, fault):
    if fault == "404":
        site.status = [404]
    else:
        site.content = b"<html>Sign in</html>" if fault == "a page" else make_zip(["../evil.jpg"])
    printed = fall_back(project, site.url)
    assert "For all photos, later: scripts/download_landscapes.sh" in printed
    assert unpacked(project) == BROUGHT


def test_the_photos_of_a_named_server_are_never_replaced_by_others(project, site):
    site.status = [404]
    download(project, site.url, code=1)
    assert not (project / "data/landscapes").exists()
    download(project, site.url)
    (project / "data/landscapes/lake/1.png").unlink()
    site.status = [404]
    assert f"Kept: the photos of {site.url}" in fall_back(project, site.url)
    assert unpacked(project) == sorted({*MEMBERS} - {"lake/1.png"})


def test_the_full_set_replaces_what_came_with_the_project_and_is_not_mixed(project, site):
    site.status = [404, 404]
    fall_back(project, site.url)
    assert "Kept: the photos of the project itself" in fall_back(project, site.url)
    fall_back(project, site.url)
    assert unpacked(project) == sorted(MEMBERS)
    site.status = [404]
    assert "Already here" in fall_back(project, site.url)
    assert f"Kept: the photos of {site.url}" in fall_back(project, site.url + "?moved")
    assert unpacked(project) == sorted(MEMBERS)


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_photos_that_are_not_as_they_came_are_not_used(project, site, harm):
    photo = project / "workload/landscapes" / BROUGHT[1]
    photo.write_bytes(b"changed") if harm == "changed" else photo.unlink()
    site.status = [404, 404]
    output = fall_back(project, site.url, code=1)
    (line,) = [line for line in output.splitlines() if photo.name in line]
    assert "the project" in line
    assert not (project / "data/landscapes").exists()
    photo.write_bytes(PHOTO)
    fall_back(project, site.url)
    assert unpacked(project) == BROUGHT


def test_help_needs_nothing(tmp_path):
    shutil.copy2(ROOT / "scripts/download_landscapes.sh", tmp_path)  # alone
    for word, code in {"--help": 0, "-h": 0, "--else": 2}.items():
        done = subprocess.run(
            [tmp_path / "download_landscapes.sh", word], capture_output=True, text=True
        )
        assert done.returncode == code
        assert ("LANDSCAPES_URL=" in done.stdout) is (code == 0)
    assert list(tmp_path.iterdir()) == [tmp_path / "download_landscapes.sh"]


def test_the_photos_that_come_with_the_project_are_whole_and_each_has_its_licence():
    files = {p.relative_to(SHIPPED).as_posix() for p in SHIPPED.rglob("*") if p.is_file()}
    listed = dict(
        reversed(line.split("  ")) for line in (SHIPPED / "SHA256SUMS").read_text().splitlines()
    )
    assert files - {"SHA256SUMS"} == set(listed)
    for name, expected in listed.items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == expected, name
    photos = {name for name in files if name.endswith(".jpg")}
    assert sum((SHIPPED / name).stat().st_size for name in photos) < 3_000_000

    # a row of the credits is one photo: `NAME_a`–`c` | class | title | author | [licence](…)
    rows = re.findall(
        r"^\| `(\S+)_a`(?:–`([bc])`)? \| (\w+) \| .+? \| .+? \| \[([^]]+)\]",
        (SHIPPED / "CREDITS.md").read_text(encoding="utf-8"),
        re.M,
    )
    assert {licence for *_, licence in rows} <= {"CC0 1.0", "CC BY 2.0", "public domain"}
    credited = {
        f"{label}/{name}_{letter}.jpg"
        for name, last, label, _ in rows
        for letter in "abc"[: "abc".index(last or "a") + 1]
    }
    assert credited == photos


def test_git_takes_the_photos_along():
    listed = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "workload/landscapes",
    ]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert len([name for name in names.splitlines() if name.endswith(".jpg")]) == 234


def test_a_folder_that_only_claims_to_hold_photos_gets_the_projects(project, site):
    claims = project / "data/landscapes"
    claims.mkdir(parents=True)
    marker = {"url": "https://example.org/x.zip", "photos": 10}
    (claims / ".downloaded.json").write_text(json.dumps(marker))
    site.status = [404]
    assert "Using the 2 photos of the project itself" in fall_back(project, site.url)
    assert unpacked(project) == BROUGHT


def test_nothing_is_written_through_a_link_that_was_there_before(project, site):
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_bytes(b"kept")
    (project / "data").mkdir()
    (project / "data/.landscapes-new").symlink_to(elsewhere)
    (project / "data/.landscapes-old").symlink_to(elsewhere)
    site.status = [404]
    fall_back(project, site.url)
    assert unpacked(project) == BROUGHT
    assert not (project / "data/landscapes").is_symlink()
    (project / "data/.landscapes.lock").unlink()
    (project / "data/.landscapes.lock").symlink_to(elsewhere / "kept")
    fall_back(project, site.url, code=1)
    assert [(path.name, path.read_bytes()) for path in elsewhere.iterdir()] == [("kept", b"kept")]
