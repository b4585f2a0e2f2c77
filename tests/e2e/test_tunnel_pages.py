"""Pages through the tunnel as a person sees them: a notebook's cell runs on the VM."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.eventually import eventually
from tests.harness.laptop import Laptop, project
from tests.harness.sshd import free_port

CELL = "import socket\nprint('ran on', socket.gethostname(), 6 * 7)"
NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "id": "one", "execution_count": None, "metadata": {},
         "outputs": [], "source": CELL},
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3",
                                "language": "python"}},
    "nbformat": 4, "nbformat_minor": 5,
}  # fmt: skip
# what torch.save writes is a zip file
TRAIN = """
import importlib.util, zipfile
assert importlib.util.find_spec("torch"), "it comes with the image"
zipfile.ZipFile("unet.pth", "w").close()
"""


@pytest.fixture(scope="module")
def folder(laptop: Laptop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = project(
        tmp_path_factory.mktemp("pages") / "pages",
        '[jobs.colorize]\ncommand = "python train.py"\n',
        {"cell.ipynb": json.dumps(NOTEBOOK), "train.py": TRAIN},
    )
    laptop.typed("vmctl up --gpu t4", made)
    laptop.typed("vmctl push && vmctl run colorize", made)
    yield made
    laptop("tunnel", "stop", "all", cwd=made, code=None)
    laptop("down", "--delete", "--yes", cwd=made, code=None)


def listening(laptop: Laptop, folder: Path) -> dict[int, set[str]]:
    """The VM's listening ports and the addresses they are bound to, from its kernel."""
    told = laptop("exec", "cat", "/proc/net/tcp", "/proc/net/tcp6", cwd=folder).stdout
    found: dict[int, set[str]] = {}
    for line in told.splitlines():
        if row := re.match(r" *\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ 0A ", line):
            found.setdefault(int(row.group(2), 16), set()).add(row.group(1))
    return found


def test_a_kernel_works_behind_the_tunnel_and_over_a_cut(laptop: Laptop, folder: Path) -> None:
    opened = laptop.json(
        "tunnel", "jupyter", "--port", str(free_port()), "--background", cwd=folder
    )
    base, _, token = opened["url"].partition("?token=")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{base}api/kernels", timeout=20)
    asked = urllib.request.Request(f"{base}api/kernels", method="POST")
    asked.add_header("Authorization", f"token {token}")
    with urllib.request.urlopen(asked, timeout=60) as answer:
        kernel = json.load(answer)["id"]
    host = laptop("exec", "hostname", cwd=folder).stdout.strip()
    assert ran(base, token, kernel, "import socket; x = 6; print(socket.gethostname())") == host
    pid = opened["pid"]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    eventually(lambda: state_of(laptop, folder) == "up", what="the tunnel again")
    assert ran(base, token, kernel, "print(x * 7)") == "42"
    laptop("tunnel", "stop", "jupyter", cwd=folder)


def ran(base: str, token: str, kernel: str, code: str) -> str:
    """What a kernel prints for a cell, over the channels that a notebook uses."""
    import websocket

    where = f"ws{base.removeprefix('http')}api/kernels/{kernel}/channels"
    line = websocket.create_connection(f"{where}?token={token}", timeout=60)
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3"}
    content = {"code": code, "silent": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    line.send(json.dumps({**message, "channel": "shell", "buffers": []}))
    while True:
        told = json.loads(line.recv())
        if told["msg_type"] == "stream" and told["parent_header"]["msg_id"] == header["msg_id"]:
            line.close()
            return str(told["content"]["text"]).strip()


@pytest.mark.exhaustive
def test_a_notebook_cell_runs_on_the_vm(
    laptop: Laptop, folder: Path, browser: Any, tmp_path: Path
) -> None:
    opened = laptop.json(
        "tunnel", "jupyter", "--port", str(free_port()), "--background", cwd=folder
    )
    base, _, token = opened["url"].partition("?token=")
    assert token
    # on the VM's own 127.0.0.1 (in the kernel's byte order), and nowhere else
    assert listening(laptop, folder)[8888] == {"0100007F"}

    browser.get(f"{base}lab/tree/cell.ipynb?token={token}")
    try:
        eventually(lambda: cells(browser), "the notebook", within_s=120, gap_s=1)
        host = laptop("exec", "hostname", cwd=folder).stdout.strip()
        eventually(lambda: says(browser, f"ran on {host} 42"), within_s=90, what="the output")

        browser.execute_script("window.stillTheSamePage = true")

        # the connection dies under the open page: the same page runs the cell again
        pid = opened["pid"]
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        eventually(lambda: state_of(laptop, folder) == "up", what="the tunnel again")
        # Jupyter shows the kernel as unknown until its next sign of life
        type_into_cell(browser, "; print('and', 'again')")
        eventually(lambda: says(browser, "and again"), within_s=90, what="the output, again")
        assert browser.execute_script("return window.stillTheSamePage")
    finally:
        shots = Path(os.environ.get("VMCTL_TEST_SCREENSHOTS", tmp_path))
        browser.save_screenshot(str(shots / "jupyter-cell.png"))
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{base}api/contents", timeout=20)
    assert token not in Path(opened["log"]).read_text()
    laptop("tunnel", "stop", "jupyter", cwd=folder)


def cells(browser: Any) -> list[Any]:
    from selenium.webdriver.common.by import By

    return list(browser.find_elements(By.CSS_SELECTOR, ".jp-CodeCell .cm-content"))


def type_into_cell(browser: Any, more: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    typing = ActionChains(browser).click(cells(browser)[0])
    typing = typing.key_down(Keys.CONTROL).send_keys(Keys.END).key_up(Keys.CONTROL)
    typing.send_keys(more).perform()


def says(browser: Any, text: str) -> bool:
    """Run the first cell and wait for its output.

    Jupyter forgets a cell that was run while its kernel was still starting: then again.
    """
    from selenium.common.exceptions import TimeoutException, WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    button = '[data-command="notebook:run-cell-and-select-next"]'
    try:
        cells(browser)[0].click()
        browser.find_element(By.CSS_SELECTOR, button).click()
        WebDriverWait(browser, 15).until(lambda page: text in outputs(page))
    except (TimeoutException, WebDriverException):
        return False
    return True


def outputs(browser: Any) -> str:
    from selenium.webdriver.common.by import By

    shown = browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output pre")
    return "\n".join(item.text for item in shown)


def state_of(laptop: Laptop, folder: Path) -> str:
    (record,) = laptop.json("tunnels", cwd=folder)
    return str(record["state"])


def test_two_lines_and_one_line_of_the_users_own(laptop: Laptop, folder: Path) -> None:
    """The first two were typed already: `up`, and `push && run`."""
    port = free_port()
    laptop("tunnel", "tensorboard", "--port", str(port), "--background", cwd=folder)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        assert b"TensorBoard" in answer.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=20) as answer:
        assert json.load(answer) == []
    # on the VM's own 127.0.0.1 only
    assert listening(laptop, folder)[8898] == {"0100007F"}
    laptop("tunnel", "stop", "tensorboard", cwd=folder)
    laptop.typed("vmctl fetch unet.pth", folder)
    assert zipfile.is_zipfile(folder / "unet.pth")
