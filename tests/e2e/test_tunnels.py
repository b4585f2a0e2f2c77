"""tunnel: a web page on the VM is at localhost, two machines apart, and heals by itself."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.eventually import eventually
from tests.harness.fixtures import Linked
from tests.harness.folders import processes_of, public_folder
from tests.harness.laptop import BASE, Laptop, project
from tests.harness.sshd import free_port

SERVER = "python3 -m http.server {port} --bind 127.0.0.1"
BAD = '[services.bad]\nport = 7000\ncommand = "echo no such luck {port}; exit 3"\n'
SITE = BASE + f'[services.site]\nport = 8888\ncommand = "{SERVER}"\n'


def page(port: int, path: str = "/") -> str:
    """The page at a local port; "" while nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@contextlib.contextmanager
def tunnel(laptop: Laptop, *words: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A tunnel as another terminal holds it, closed with Ctrl-C."""
    log = (cwd.parent / "tunnel.log").open("wb")
    client = laptop.start("tunnel", *words, cwd=cwd, stdout=log, stderr=log)
    try:
        yield client
    except BaseException:
        print((cwd.parent / "tunnel.log").read_text())
        raise
    finally:
        if client.poll() is None:
            os.kill(client.pid, signal.SIGINT)
        client.wait(timeout=20)
        log.close()


@contextlib.contextmanager
def settings(folder: Path, more: str) -> Iterator[None]:
    """A folder's vmctl.toml says more for a while."""
    toml = folder / "vmctl.toml"
    before = toml.read_text()
    toml.write_text(before + more)
    try:
        yield
    finally:
        toml.write_text(before)


@pytest.fixture(scope="module")
def sites(laptop: Laptop) -> Iterator[tuple[Path, Path]]:
    base = public_folder("sites")
    made = []
    for name in ("one", "two"):
        folder = project(base / name / "site", SITE)
        (folder / "index.html").write_text(f"this is {name}")
        laptop("-n", f"site-{name}", "up", cwd=folder)
        laptop("-n", f"site-{name}", "push", cwd=folder)
        made.append(folder)
    yield made[0], made[1]
    for name, folder in zip(("one", "two"), made, strict=True):
        laptop("-n", f"site-{name}", "down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


def test_two_machines_serve_the_same_port_at_once(laptop: Laptop, sites: tuple[Path, Path]) -> None:
    first, second = free_port(), free_port()
    with (
        tunnel(laptop, "site", "--port", str(first), "-n", "site-one", cwd=sites[0]),
        tunnel(laptop, "site", "--port", str(second), "-n", "site-two", cwd=sites[1]),
    ):
        eventually(lambda: "this is one" in page(first), what="the first site")
        eventually(lambda: "this is two" in page(second), what="the second site")


def test_a_plain_port_is_forwarded(laptop: Laptop, sites: tuple[Path, Path]) -> None:
    port = free_port()
    serve = "cd /tmp && echo plain >p && nohup python3 -m http.server 7777 -b 127.0.0.1"
    background = f"({serve}) >/dev/null 2>&1 </dev/null &"
    laptop("-n", "site-one", "exec", "--", "sh", "-c", background, cwd=sites[0])
    with tunnel(laptop, f"{port}:7777", "-n", "site-one", cwd=sites[0]):
        eventually(lambda: page(port, "/p") == "plain\n", what="the server through the tunnel")


def test_ctrl_c_closes_the_tunnel_and_leaves_the_service(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = free_port()
    log = sites[0].parent / "tunnel.log"
    url = rf"http://(localhost|127\.0\.0\.1):{port}"
    with tunnel(laptop, "site", "--port", str(port), "-n", "site-one", cwd=sites[0]) as client:
        eventually(lambda: re.search(url, log.read_text()), what="the URL")
        assert "this is one" in page(port)
        os.kill(client.pid, signal.SIGINT)
        assert client.wait(timeout=20) == 0
    eventually(lambda: page(port) == "", what="the port is closed")
    told = laptop("-n", "site-one", "exec", "curl", "-s", "localhost:8888", cwd=sites[0])
    assert "this is one" in told.stdout


def test_a_service_that_dies_shows_its_last_words(laptop: Laptop, sites: tuple[Path, Path]) -> None:
    with settings(sites[0], BAD):
        told = laptop("tunnel", "bad", "-n", "site-one", cwd=sites[0], code=None)
    assert told.returncode not in (0, 130)
    assert "no such luck 7000" in told.stderr


# -- several, in the background, listed, stopped ----------------------------------------------


def listed(laptop: Laptop, cwd: Path) -> list[dict[str, Any]]:
    """The open tunnels, by local port."""
    found: list[dict[str, Any]] = laptop.json("tunnels", cwd=cwd)
    return found


def state(laptop: Laptop, cwd: Path, port: int) -> str:
    return next((str(t["state"]) for t in listed(laptop, cwd) if t["local_port"] == port), "")


def test_a_tunnel_in_the_background_outlives_its_terminal(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = str(free_port())
    words = ("tunnel", "site", "--port", port, "--background", "-n", "site-one")
    opened = laptop(*words, cwd=sites[0])
    assert opened.stdout == f"http://127.0.0.1:{port}/\n"
    assert "this is one" in page(int(port)), "it answers when the command returns"
    (record,) = listed(laptop, sites[1])
    assert (record["what"], record["state"], record["background"]) == ("site", "up", True)
    assert record["url"] == f"http://127.0.0.1:{port}/"
    assert os.getsid(record["pid"]) == record["pid"], "a session of its own: no terminal ends it"
    assert Path(record["log"]).stat().st_mode & 0o077 == 0
    table = laptop("tunnels", cwd=sites[1]).stdout
    assert port in table
    assert "up" in table

    again = laptop(*words, cwd=sites[0])
    assert again.stdout == opened.stdout
    assert [t["pid"] for t in listed(laptop, sites[0])] == [record["pid"]], "kept, not doubled"

    taken = laptop("tunnel", f"{port}:22", "-n", "site-two", cwd=sites[1], code=4)
    assert f"tunnel to site of tester-site-one (process {record['pid']})" in taken.stderr
    assert f"vmctl tunnel stop {port}" in taken.stderr

    laptop("tunnel", "stop", "site", "-n", "site-two", cwd=sites[1])
    assert state(laptop, sites[0], int(port)) == "up", "another VM's is not meant"
    laptop("tunnel", "stop", "site", "-n", "site-one", cwd=sites[0])
    assert listed(laptop, sites[0]) == []
    assert page(int(port)) == ""
    assert not processes_of(str(record["log"]))
    assert "No such tunnel" in laptop("tunnel", "stop", "site", cwd=sites[0]).stdout


def test_the_next_free_port_is_found_and_all_are_stopped_at_once(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = int(holder.getsockname()[1])
        chosen = []
        for folder, name in zip(sites, ("site-one", "site-two"), strict=True):
            words = ("tunnel", f"{port}:8888", "--port", "auto", "--background", "-n", name)
            opened = laptop.json(*words, cwd=folder)
            chosen.append(opened["local_port"])
    # a neighbour may have held the next port for the first and not for the second
    assert port < min(chosen) < max(chosen)
    assert sorted(t["local_port"] for t in listed(laptop, sites[0])) == sorted(chosen)
    laptop("tunnel", "stop", "all", cwd=sites[0])
    assert listed(laptop, sites[0]) == []
    assert "No tunnel is open" in laptop("tunnels", cwd=sites[0]).stdout


BROWSER = """#!/bin/sh
printf '%s' "$1" >>"$SEEN"
stat -c ' %a ' "${1#file://}" >>"$SEEN"
cat "${1#file://}" >>"$SEEN"
"""


@pytest.mark.parametrize("background", [False, True], ids=["terminal", "background"])
def test_no_token_is_in_the_command_line_of_the_browser(
    laptop: Laptop, sites: tuple[Path, Path], tmp_path: Path, background: bool
) -> None:
    root = sites[0]
    toml, before = root / "vmctl.toml", (root / "vmctl.toml").read_text()
    toml.write_text(
        before + f'[services.secret]\nport = 8889\ntoken = true\ncommand = "{SERVER}"\n'
    )
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(BROWSER)
    browser.chmod(0o755)
    environ = {"BROWSER": f"{browser} %s", "SEEN": str(seen)}
    port = str(free_port())
    words = ("tunnel", "secret", "--open", "--port", port, "-n", "site-one")
    client = None
    try:
        if background:
            laptop(*words, "--background", cwd=root, environ=environ)
        else:
            client = laptop.start(*words, cwd=root, environ=environ)
            eventually(lambda: "</a>" in (seen.read_text() if seen.exists() else ""))
        (record,) = listed(laptop, root)
        address, mode, text = seen.read_text().split(" ", 2)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[0-9a-f]{48}", record["url"])
        assert address.startswith("file:///")
        assert "token" not in address
        assert mode == "600"
        assert f'content="0; url={record["url"]}"' in text
        assert Path(address.removeprefix("file://")).exists()
    finally:
        if client is not None:
            os.kill(client.pid, signal.SIGINT)
            client.communicate(timeout=20)
        laptop("tunnel", "stop", "secret", "-n", "site-one", cwd=root)
        toml.write_text(before)
    assert not Path(address.removeprefix("file://")).exists(), "it goes with its tunnel"
    assert listed(laptop, root) == []


def test_an_error_of_a_tunnel_in_the_background_is_this_commands_own(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        words = ("tunnel", "site", "--background", "--port", port, "-n")
        told = laptop(*words, "site-one", cwd=sites[0], code=4)
        assert f"process {os.getpid()}" in told.stderr
        assert "--port auto" in told.stderr
    told = laptop(*words, "no-such", cwd=sites[0], code=3)
    assert "vmctl up" in told.stderr
    assert listed(laptop, sites[0]) == []


def test_a_tunnel_that_was_killed_is_not_listed_and_leaves_nothing(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = free_port()
    words = ("tunnel", "site", "--port", str(port), "--background", "-n", "site-one")
    first = laptop.json(*words, cwd=sites[0])["pid"]
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: listed(laptop, sites[0]) == [], what="a dead tunnel is swept")
    eventually(lambda: not any(Path(f"/proc/{c}").exists() for c in children), what="its ssh ends")
    second = laptop.json(*words, cwd=sites[0])
    assert second["pid"] != first
    assert "this is one" in page(port)
    laptop("tunnel", "stop", str(port), cwd=sites[1])


# -- what a browser sees of a cut ----------------------------------------------------------------


def test_a_page_is_back_after_a_stop_and_a_start_and_comes_to_who_asked_meanwhile(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = free_port()
    before = laptop.json("status", "-n", "site-one", cwd=sites[0])["machine"]["address"]
    with tunnel(laptop, "site", "--port", str(port), "-n", "site-one", cwd=sites[0]) as client:
        eventually(lambda: "this is one" in page(port))
        laptop("-n", "site-one", "down", cwd=sites[0])
        eventually(lambda: state(laptop, sites[0], port) == "reconnecting", what="it is noticed")
        asked = subprocess.Popen(
            ["curl", "-sS", "--max-time", "50", f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE
        )
        laptop("-n", "site-one", "up", cwd=sites[0])
        answer, _ = asked.communicate(timeout=60)
        assert answer == b"this is one", "no error, only a pause"
        after = laptop.json("status", "-n", "site-one", cwd=sites[0])["machine"]["address"]
        assert before != after, "a stop releases the address"
        assert state(laptop, sites[0], port) == "up"
        assert client.poll() is None


def test_a_connection_that_died_loudly_or_silently_is_noticed_and_replaced(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = free_port()
    log = sites[0].parent / "tunnel.log"
    with tunnel(laptop, "site", "--port", str(port), "-n", "site-one", cwd=sites[0]) as client:
        eventually(lambda: f":{port}/" in log.read_text(), what="the URL")
        assert "this is one" in page(port)
        killed = children_of(client.pid)
        assert killed, "the tunnel has an ssh of its own"
        for child in killed:
            os.kill(child, signal.SIGKILL)
        eventually(lambda: "this is one" in page(port), what="the site after a kill of ssh")
        assert client.poll() is None

        told = log.read_text().count("lost")
        silent = children_of(client.pid)
        assert silent
        assert not set(silent) & set(killed)
        for child in silent:
            os.kill(child, signal.SIGSTOP)  # it neither answers nor ends
        # asked in vain, then asked again on the new connection
        asked = subprocess.run(
            ["curl", "-sS", "--max-time", "40", f"http://127.0.0.1:{port}/"], capture_output=True
        )
        assert asked.stdout == b"this is one"
        assert log.read_text().count("lost") > told
        for child in silent:
            assert not Path(f"/proc/{child}").exists(), "the silent one is ended"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_computer_that_slept_goes_on_with_the_same_connection(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = free_port()
    log = sites[0].parent / "tunnel.log"
    with tunnel(laptop, "site", "--port", str(port), "-n", "site-one", cwd=sites[0]) as client:
        eventually(lambda: f":{port}/" in log.read_text(), what="the URL")
        asleep = [client.pid, *children_of(client.pid)]
        for pid in asleep:
            os.kill(pid, signal.SIGSTOP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(timeout=10)  # longer than any answer may take
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        assert "this is one" in page(port)
        eventually(lambda: state(laptop, sites[0], port) == "up")
        # two looks later nothing was given up that was still good
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(timeout=4)
        assert "lost" not in log.read_text()
        assert "this is one" in page(port)


def test_an_ssh_that_dies_while_it_connects_is_tried_again(linked: Linked, tmp_path: Path) -> None:
    linked.laptop("exec", "true", cwd=linked.folder)
    linked.link.set(rtt_ms=200)  # a handshake of two seconds
    port = free_port()
    log = tmp_path / "tunnel.log"
    with log.open("wb") as told:
        client = linked.laptop.start(
            "tunnel", f"{port}:22", cwd=linked.folder, stdout=told, stderr=told
        )
    try:
        killed = eventually(lambda: forwards_of(client.pid), what="its ssh")[0]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: f":{port}/" in log.read_text(), within_s=60, what="the URL")
        assert "lost" in log.read_text()
        assert client.poll() is None
    finally:
        client.send_signal(signal.SIGINT)
        client.wait(timeout=20)
    assert not forwards_of(client.pid)


def forwards_of(pid: int) -> list[int]:
    """The ssh processes of a tunnel's, from the moment they are known by their command line."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(c) for c in children if b"\0-L\0" in Path(f"/proc/{c}/cmdline").read_bytes()]
    except OSError:
        return []


def test_a_tunnel_in_the_background_ends_with_its_vm(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = str(free_port())
    words = ("tunnel", "site", "--port", port, "--background", "-n", "site-two")
    opened = laptop.json(*words, cwd=sites[1])
    laptop("-n", "site-two", "down", "--delete", "--yes", cwd=sites[1])
    eventually(lambda: not state(laptop, sites[1], int(port)), "the tunnel's end", within_s=60)
    assert "There is no VM" in Path(opened["log"]).read_text()
