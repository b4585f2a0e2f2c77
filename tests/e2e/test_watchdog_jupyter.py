"""A real Jupyter server: its kernels at work keep the machine, an open tunnel does not."""

from __future__ import annotations

import pytest

from tests.harness.sshd import free_port
from tests.harness.stepped_clock import SteppedCloud

IDLE_H = 0.1  # shorter than the default, as each look of the watchdog costs time here
TOML = '[vm]\nimage = "pytorch"\nidle = "6m"\n'

# on the machine: `begin` starts a kernel and gives it an hour's work, `end` interrupts it
SCRIPT = """
import datetime, glob, json, pathlib, sys, time, urllib.request, uuid
import websocket

(file,) = glob.glob(str(pathlib.Path.home() / ".local/share/jupyter/runtime/jpserver-*.json"))
server = json.loads(pathlib.Path(file).read_text())
base = f"127.0.0.1:{server['port']}{server['base_url']}"

def ask(path, method="GET"):
    request = urllib.request.Request(f"http://{base}{path}", method=method)
    request.add_header("Authorization", f"token {server['token']}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")

if sys.argv[1] == "begin":
    kernel = ask("api/kernels", "POST")["id"]
    session = uuid.uuid4().hex
    line = websocket.create_connection(
        f"ws://{base}api/kernels/{kernel}/channels?session_id={session}&token={server['token']}"
    )
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session":
              session, "version": "5.3", "date": datetime.datetime.now().isoformat()}
    line.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "channel": "shell",
        "content": {"code": "import time; time.sleep(3600)", "silent": False}, "buffers": []}))
    wanted = "busy"
else:
    kernel = ask("api/kernels")[0]["id"]
    ask(f"api/kernels/{kernel}/interrupt", "POST")
    wanted = "idle"
deadline = time.monotonic() + 60
while ask(f"api/kernels/{kernel}")["execution_state"] != wanted:
    assert time.monotonic() < deadline
    time.sleep(0.1)
"""


@pytest.mark.slow
def test_a_kernel_at_work_keeps_the_machine_and_an_open_tunnel_does_not() -> None:
    with SteppedCloud.opened("jupyter") as cloud:
        (cloud.folder / "vmctl.toml").write_text(TOML)
        (cloud.folder / "kernel.py").write_text(SCRIPT)
        cloud("up")
        cloud("push")
        cloud("tunnel", "jupyter", "--background", "--port", str(free_port()))
        kernel = ("exec", "--", "/opt/python/bin/python", "kernel.py")
        cloud(*kernel, "begin")
        cloud.live(2.5 * IDLE_H)
        assert cloud.machine()["status"] == "RUNNING"
        assert "1 Jupyter kernel" in str(cloud.report())
        cloud(*kernel, "end")
        cloud.live(2.5 * IDLE_H)
        cloud.off()
        cloud("tunnel", "stop", "all", code=None)
