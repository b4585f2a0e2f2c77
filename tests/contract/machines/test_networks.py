"""Machines on one port, the network between them, and the way out."""

from __future__ import annotations

import http.server
import shlex
import socket
import subprocess
import threading

from tests.contract.machines.host import Bench, needs_sandbox
from tests.harness.eventually import eventually
from vmctl.emulator.machines import Internal


@needs_sandbox
def test_machines_that_start_at_once_serve_the_same_port_and_reach_each_other(bench: Bench) -> None:
    numbers = ["10", "11", "12"]
    threads = [
        threading.Thread(target=bench.boot, args=(n,), kwargs={"internal": inside(n)})
        for n in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({bench.places[number].nat_ip for number in numbers}) == len(numbers)
    tunnels = []
    for number in numbers:
        serve = "mkdir -p w; hostname >w/name; cd w; python3 -m http.server -b 127.0.0.1 8888"
        bench.ssh(number, f"tmux new -d '{serve}'")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        forward = ["-N", "-L", f"127.0.0.1:{port}:localhost:8888"]
        argv = ["ssh", *bench.options(number), *forward, bench.address(number)]
        tunnels.append((number, port, subprocess.Popen(argv, stderr=subprocess.DEVNULL)))
    try:
        for number, port, _ in tunnels:
            assert eventually(lambda port=port: read_name(port)) == f"vm-{number}"
    finally:
        for _, _, process in tunnels:
            process.terminate()
            process.wait()
    # the network between them, by name; the third one is in another
    bench.ssh("11", "tmux new -d 'python3 -m http.server -d w 5300'")
    seen = eventually(lambda: reach(bench, "10", "vm-11"), "its neighbour is known by name")
    assert seen == reach(bench, "10", "vm-11.zone.c.project.internal") == "vm-11"
    assert not reach(bench, "12", "10.132.0.11")
    assert bench.ssh("10", "hostname -f") == "vm-10.zone.c.project.internal"
    banner = "import socket; print(socket.create_connection(('vm-11', 22)).recv(7).decode())"
    assert bench.ssh("10", f"python3 -c {shlex.quote(banner)}") == "SSH-2.0"
    bench.host.open_network("mine", False)
    assert not reach(bench, "10", "vm-11")
    bench.host.open_network("mine", True)
    assert reach(bench, "10", "vm-11") == "vm-11"
    bench.host.cut("11", True)
    assert not reach(bench, "10", "vm-11")
    bench.host.cut("11", False)
    assert reach(bench, "10", "vm-11") == "vm-11"


def inside(number: str) -> Internal:
    network = "another" if number == "12" else "mine"
    return Internal(network, f"10.132.0.{number}", f"vm-{number}.zone.c.project.internal", True)


def reach(bench: Bench, number: str, host: str) -> str:
    """What another machine's server on port 5300 says to one; "" if it is not reached."""
    url = f"http://{host}:5300/name"
    code = f"import urllib.request as u; print(u.urlopen('{url}', timeout=2).read())"
    told = bench.try_ssh(number, f"python3 -c {shlex.quote(code)}").stdout
    return told[2:].partition("\\n")[0] if told else ""


def read_name(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            with connection.makefile() as stream:
                return stream.read().splitlines()[-1]
    except (OSError, IndexError):
        return ""


@needs_sandbox
def test_a_machine_reaches_a_port_of_this_computer_once_it_is_named(shared: Bench) -> None:
    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello from outside")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            fetch = "import urllib.request as u; print(u.urlopen('http://10.0.2.2:%d').read())"
            code = shlex.quote(fetch % server.server_port)
            assert "refused" in shared.try_ssh("1", f"python3 -c {code}").stderr
            shared.host.forwards.add(server.server_port)
            assert "hello from outside" in shared.ssh("1", f"python3 -c {code}")
            shared.host.forwards.remove(server.server_port)
            assert shared.try_ssh("1", f"python3 -c {code}").returncode != 0
        finally:
            server.shutdown()
            thread.join()
