"""A tunnel to a service on the machine: it starts the service, and comes back."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.harness.eventually import eventually
from tests.harness.sshd import free_port
from tests.harness.wire import World, play, write
from vmctl.domain.errors import (
    Conflict,
    NotFound,
)
from vmctl.domain.events import Info, Story, UrlReady
from vmctl.domain.settings.service_settings import ServiceSettings
from vmctl.workflows.sync.push import push
from vmctl.workflows.tunnels.tunnel import tunnel

T = TypeVar("T")


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/hello.txt")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture
def web(world: World) -> World:
    """A service `web` on a port of its own."""
    write(world.root, {"hello.txt": "hello through the tunnel"})
    play(push(world.project))
    service = ServiceSettings("web", "python -m http.server {port} --bind 127.0.0.1", free_port())
    return World(dataclasses.replace(world.project, services={"web": service}), world.sshd)


def next_told(story: Story[Any], kind: type[T], seconds: float = 30.0) -> T:
    """The next event of a kind; the ones before it pass by."""
    limit = time.monotonic() + seconds
    for event in story:
        if isinstance(event, kind):
            return event
        assert time.monotonic() < limit, f"no {kind.__name__} in time, but {event}"
    raise AssertionError(f"the story ended without {kind.__name__}")


def test_tunnel_starts_the_service_and_again_after_a_cut_and_a_reboot(web: World) -> None:
    port = free_port()
    story = tunnel(web.project, "web", port)
    with contextlib.closing(story):
        assert next_told(story, UrlReady).url == f"http://127.0.0.1:{port}/"
        assert get(port) == b"hello through the tunnel"
        web.sshd.cut()
        assert "reconnected" in next_told(story, Info).text
        assert get(port) == b"hello through the tunnel"
        web.sshd.power_off()
        web.sshd.start()
        next_told(story, Info)
        eventually(lambda: _answers(port))
        assert get(port) == b"hello through the tunnel"
    with pytest.raises(OSError):
        get(port)


def _answers(port: int) -> bool:
    try:
        get(port)
    except (OSError, http.client.HTTPException):
        return False
    return True


def test_taken_port_names_its_holder_and_the_next_free_one(web: World) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Conflict, match=f"process {os.getpid()}") as caught:
            next(tunnel(web.project, "web", port))
    assert caught.value.hint.startswith("Use the next free one: --port ")


def test_service_that_dies_shows_its_last_words(web: World) -> None:
    broken = ServiceSettings("web", "echo no such module >&2; exit 1", free_port())
    project = dataclasses.replace(web.project, services={"web": broken})
    with pytest.raises(Conflict, match="no such module"):
        play(tunnel(project, "web", free_port()))


def test_unknown_service_names_the_nearest(web: World) -> None:
    with pytest.raises(NotFound) as caught:
        next(tunnel(web.project, "wep"))
    assert caught.value.hint == "vmctl tunnel web"


def test_token_is_in_the_url_and_in_no_process_list(web: World) -> None:
    line = 'echo "$JUPYTER_TOKEN_FILE" > where; exec python -m http.server {port}'
    service = web.project.services["web"]._replace(command=f"{line} --bind 127.0.0.1", token=True)
    project = dataclasses.replace(web.project, services={"web": service})
    story = tunnel(project, "web", free_port())
    with contextlib.closing(story):
        token = next_told(story, UrlReady).url.partition("?token=")[2]
        file = Path((web.remote / "where").read_text().strip())
        assert file.read_text() == token
        assert len(token) >= 32
        assert file.stat().st_mode & 0o077 == 0
        shown = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
        assert token not in shown
