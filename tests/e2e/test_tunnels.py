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

import pytest

from tests.e2e.conftest import BASE, Laptop, eventually, project, public_folder

SERVER = "python3 -m http.server {port} --bind 127.0.0.1"
SITE = BASE + f'[services.site]\nport = 8888\ncommand = "{SERVER}"\n'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


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


def test_the_page_is_back_after_a_stop_and_a_start(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = free_port()
    before = laptop.json("status", "-n", "site-one", cwd=sites[0])["machine"]["address"]
    with tunnel(laptop, "site", "--port", str(port), "-n", "site-one", cwd=sites[0]) as client:
        eventually(lambda: "this is one" in page(port))
        laptop("-n", "site-one", "down", cwd=sites[0])
        laptop("-n", "site-one", "up", cwd=sites[0])
        after = laptop.json("status", "-n", "site-one", cwd=sites[0])["machine"]["address"]
        assert before != after, "a stop releases the address"
        eventually(lambda: "this is one" in page(port), within_s=60, what="the site again")
        assert client.poll() is None


def test_the_page_is_back_after_the_connection_died(
    laptop: Laptop, sites: tuple[Path, Path]
) -> None:
    port = free_port()
    log = sites[0].parent / "tunnel.log"
    with tunnel(laptop, "site", "--port", str(port), "-n", "site-one", cwd=sites[0]) as client:
        eventually(lambda: f":{port}/" in log.read_text(), what="the URL")
        assert "this is one" in page(port)
        children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        assert children, "the tunnel has an ssh of its own"
        eventually(lambda: "this is one" in page(port), what="the site after a kill of ssh")
        assert client.poll() is None


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


def test_a_service_that_dies_shows_its_last_words(laptop: Laptop, tmp_path: Path) -> None:
    folder = project(
        tmp_path / "dies",
        BASE + '[services.bad]\nport = 7000\ncommand = "echo no such luck {port}; exit 3"\n',
    )
    laptop("up", cwd=folder)
    laptop("push", cwd=folder)
    told = laptop("tunnel", "bad", cwd=folder, code=None)
    assert told.returncode not in (0, 130)
    assert "no such luck 7000" in told.stderr
    laptop("down", "--delete", "--yes", cwd=folder)
