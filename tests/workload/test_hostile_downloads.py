"""Servers and zips that mean harm: a download ends, in words, and leaves nothing of theirs."""

import importlib.util
import io
import random
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from download_site import MEMBERS, PHOTO, make_zip

SCRIPT = ROOT / "scripts/download_landscapes.py"
FUZZED = 800


@pytest.fixture
def script(monkeypatch):
    """The script as a module of its own, that does not wait between tries."""
    spec = importlib.util.spec_from_file_location("download_landscapes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "pause", lambda seconds: None)
    return module


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data/landscapes"


def photos_in(folder):
    return sorted(path.name for path in folder.rglob("*.*") if not path.name.startswith("."))


def leftovers(folder):
    return sorted(path.name for path in folder.parent.iterdir())


def refusal(script, site, folder):
    """Why nothing was unpacked."""
    with pytest.raises(script.Failure) as error:
        script.fetch(site.url, folder)
    assert str(error.value).isprintable() and len(str(error.value)) < 600
    assert not folder.exists()
    return str(error.value)


def test_a_server_that_always_cuts_is_left_in_the_end_and_the_next_call_goes_on(
    script, site, folder
):
    site.cut_always = 100
    assert f"cut {script.CONNECTIONS} times; run this again" in refusal(script, site, folder)
    assert len(site.requests) == script.CONNECTIONS
    assert refusal(script, site, folder)
    assert site.requests[script.CONNECTIONS] == f"bytes={100 * script.CONNECTIONS}-"
    site.cut_always = None
    script.fetch(site.url, folder)
    assert photos_in(folder) == ["1.png", "a b.jpg", "notes.txt", "ü.JPG"]


@pytest.mark.parametrize("way", ["no ranges", "no validator", "other bytes each time"])
def test_a_server_that_cuts_and_starts_over_is_given_up_after_a_few_tries(
    script, site, folder, way
):
    site.cut_always = 70_000
    site.ranges = way != "no ranges"
    if way == "no validator":
        site.etag = ""
    if way == "other bytes each time":
        site.headers["Content-Range"] = "bytes 5-6/7"
    why = "do not fit" if way == "other bytes each time" else "run this again"
    assert why in refusal(script, site, folder)
    assert len(site.requests) <= 2 * script.ATTEMPTS + 1


def test_a_server_that_gives_a_byte_now_and_then_is_as_good_as_cut(script, site, folder):
    script.SLOW_S, script.SLOWEST = 1e-9, 10**15
    assert "the connection was cut" in refusal(script, site, folder)


@pytest.mark.parametrize("span", ["bytes 70000-9/12345", "bytes 70000-", "bytes x-y/z", "", "0"])
def test_a_rest_of_another_file_is_not_appended(script, site, folder, span):
    site.cut_after = [70_000]
    site.headers["Content-Range"] = span
    script.fetch(site.url, folder)
    assert photos_in(folder) == ["1.png", "a b.jpg", "notes.txt", "ü.JPG"]


def test_a_file_that_never_ends_does_not_fill_the_disk(script, site, folder):
    site.headers["Content-Length"] = None
    script.MAX_ZIP_BYTES = 100_000
    assert "no data set" in refusal(script, site, folder)
    site.headers["Content-Length"] = 10**15
    assert "no data set" in refusal(script, site, folder)
    script.MAX_ZIP_BYTES = 10**18
    assert "the disk is full" in refusal(script, site, folder)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x.zip", "data:,x", "gopher://x", "//x\x1b/"]
)
def test_a_redirect_leads_to_the_web_only(script, site, folder, target):
    site.redirect = target
    assert refusal(script, site, folder)


def test_a_redirect_out_of_tls_is_not_followed(script):
    request = script.urllib.request.Request("https://127.0.0.1/x.zip")
    with pytest.raises(script.Failure, match="not followed"):
        script.WebOnly().redirect_request(
            request, io.BytesIO(), 302, "Found", {}, "http://127.0.0.1/x.zip"
        )


def test_a_redirect_in_a_circle_is_one_sentence(script, site, folder):
    site.redirect = site.url
    assert "HTTP 302" in refusal(script, site, folder)


def test_a_servers_words_do_not_command_the_terminal(script, site, folder):
    site.status, site.reason = [404], "no \x1b]52;c;cHduZWQ=\x07"
    assert r"no \x1b]52" in refusal(script, site, folder)


# --- zips


def test_after_a_refused_zip_the_server_is_asked_again(script, site, folder):
    good = site.content
    site.content = make_zip([*MEMBERS, "../evil.jpg"])
    assert "outside its folder" in refusal(script, site, folder)
    assert leftovers(folder) == []
    site.content, site.etag = good, '"two"'
    script.fetch(site.url, folder)
    assert photos_in(folder) == ["1.png", "a b.jpg", "notes.txt", "ü.JPG"]


def test_a_refused_zip_of_yesterday_is_not_kept_either(script, site, folder):
    key = script.hashlib.sha256(site.url.encode()).hexdigest()[:12]
    (folder.parent / f".landscapes-{key}.zip").write_bytes(make_zip(["../evil.jpg"]))
    script.fetch(site.url, folder)
    assert photos_in(folder) == ["1.png", "a b.jpg", "notes.txt", "ü.JPG"]


def packed(*names, content=PHOTO, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def test_folders_between_backslashes_are_folders(script, site, folder):
    site.content = packed("city\\", "city\\a b.jpg", "lake\\deep\\1.png")
    script.fetch(site.url, folder)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*g")) == [
        "city/a b.jpg",
        "lake/deep/1.png",
    ]


def overlapping(count):
    """A zip whose files are all the same bytes of it, as often as one likes."""
    one = packed("a/0.jpg", content=bytes(1_000_000))
    end = one.rindex(b"PK\5\6")
    start = int.from_bytes(one[end + 16 : end + 20], "little")
    entry = one[start:end]
    directory = b"".join(entry.replace(b"a/0.jpg", b"a/%d.jpg" % (n % 10)) for n in range(count))
    tail = bytearray(one[end:])
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = len(directory).to_bytes(4, "little")
    return one[:start] + directory + bytes(tail)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (packed("a/b.jpg", content=bytes(30_000_000)), "100 times as large"),
        (overlapping(1000), "100 times as large"),
        (packed("a/b.jpg", compression=zipfile.ZIP_LZMA), "unusual way"),
        (packed("a/b.jpg", compression=zipfile.ZIP_BZIP2), "unusual way"),
        (packed("/".join("a" * 30) + "/b.jpg"), "nested more than"),
        (packed("a/" + "b" * 300 + ".jpg"), "a name that cannot be"),
        (packed("a.jpg", "a.jpg/b.jpg"), "a name that cannot be"),
        (packed(".git/hooks/b.jpg", "a/.git/b.jpg"), "holds no photos"),
        (packed("a/HEAD", "a/config", "a/objects/x", "a/refs/x"), "holds no photos"),
        (packed("\x1b[2J/../b.jpg"), "outside its folder"),
    ],
)
def test_a_zip_made_to_do_harm_is_refused_and_nothing_of_it_stays(
    script, site, folder, content, why
):
    site.content = content
    assert why in refusal(script, site, folder)
    assert leftovers(folder) == []


def test_a_zip_of_more_files_than_a_data_set_has_is_refused(script, site, folder):
    script.MAX_FILES = 3
    assert "more than 3 files" in refusal(script, site, folder)


def test_a_list_of_files_that_fills_the_memory_is_one_sentence(site, tmp_path):
    entry = b"PK\1\2" + bytes(24) + (5).to_bytes(2, "little") + bytes(16) + b"a.jpg"
    directory = entry * 300_000
    end = b"PK\5\6" + bytes(4) + b"\1\0\1\0"  # one file, it says
    end += len(directory).to_bytes(4, "little") + bytes(6)
    site.content = directory + end
    code = (
        "import sys; sys.argv[1:], path = sys.argv[2:], sys.argv[1]\n"
        "import runpy; module = runpy.run_path(path)\n"
        "module['main'].__globals__['MEMORY_BYTES'] = 1 << 26\n"
        "sys.exit(module['main']())\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(SCRIPT), site.url, str(tmp_path / "photos")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "fills the memory" in done.stderr
    assert done.stderr.startswith("download_landscapes: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "photos").exists()


def test_thousands_of_damaged_zips_end_in_words_or_photos(script, tmp_path):
    whole = make_zip(["a/b.jpg", "a/ü.png", "c/d.jpg"], b"photo" * 20)
    dice = random.Random(0)
    outcomes = {"unpacked": 0, "refused": 0}
    (tmp_path / "around").mkdir()
    for _ in range(FUZZED):
        content = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            content[dice.randrange(len(content))] = dice.choice((0, 255, dice.randrange(256)))
        if dice.random() < 0.1:
            del content[dice.randrange(len(content)) :]
        (tmp_path / "around/file.zip").write_bytes(content)
        fresh = tmp_path / "around/fresh"
        try:
            script.unpack(tmp_path / "around/file.zip", fresh)
            outcomes["unpacked"] += 1
        except (script.DamagedZip, script.RefusedZip) as error:
            assert str(error).isprintable()
            outcomes["refused"] += 1
        assert {path.name for path in (tmp_path / "around").iterdir()} <= {"file.zip", "fresh"}
        shutil.rmtree(fresh, ignore_errors=True)
    assert min(outcomes.values()) > 10, outcomes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["around"]
