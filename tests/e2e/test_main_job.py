"""The four lines of the main job, word for word, with torch, TensorBoard and a real browser."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from tests.harness.laptop import ROOT, Laptop
from tests.harness.sshd import Sshd

TENSORBOARD = "http://127.0.0.1:8898"
GAP_S = 1.0  # to look at a whole page costs the browser time
# The smallest training that shows all: threads that wait for each other would cost the most of it.
COMMAND = "python colorize.py --data_path ../data/landscapes"
SMALL, FEW = "OMP_NUM_THREADS=1 ", "--epochs 1 --image_size 40 --train_samples 99"
TARGETS = """
[targets.lab]
kind = "ssh"
host = "lab"
workspace = "~/Lab"
[targets.cluster]
kind = "slurm"
host = "cluster.local.vmctl"
time = "0:30:00"
gpus = "t4:1"
"""
CLASSES = ["city", "road", "mountain", "lake", "ocean", "field", "forest"]


def landscapes() -> bytes:
    """A small data set laid out as the real one: class folders at the root, __MACOSX beside."""
    dice = random.Random(1)
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name in CLASSES:
            for i in range(3):
                sky, land = ([dice.randrange(256) for _ in range(3)] for _ in range(2))
                image = Image.new("RGB", (150, 150), tuple(sky))
                ImageDraw.Draw(image).rectangle((0, 90, 150, 150), fill=tuple(land))
                data = io.BytesIO()
                image.save(data, "JPEG")
                archive.writestr(f"{name}/photo_{i}.jpg", data.getvalue())
            archive.writestr(f"__MACOSX/{name}/._photo_0.jpg", b"not a picture")
    return memory.getvalue()


@pytest.fixture(scope="module")
def photos(laptop: Laptop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL at which a machine finds the data set on this computer."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "small.zip").write_bytes(landscapes())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    handler = partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    laptop("emulator", "forward", str(server.server_port), cwd=folder)
    yield f"http://10.0.2.2:{server.server_port}/small.zip"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def repository(laptop: Laptop) -> Iterator[Path]:
    """A copy of this repository as a clone has it, so that nothing lands in the checkout."""
    base = public_folder("main")
    folder = base / "colorize"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    toml = (folder / "vmctl.toml").read_text()
    assert COMMAND in toml
    toml = toml.replace(COMMAND, f"{SMALL}{COMMAND} {FEW}")
    (folder / "vmctl.toml").write_text(f"{toml}\n{TARGETS}")
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def desk(laptop: Laptop, repository: Path) -> Iterator[Laptop]:
    """The laptop, with an OpenSSH configuration that knows a cluster's login node by vmctl's name
    for it, and a server behind a jump host."""
    base = repository.parent
    sockets = Path(tempfile.mkdtemp(prefix="vmj", dir="/tmp"))
    ssh = base / "home" / ".ssh"
    ssh.mkdir(mode=0o700, parents=True)
    extra = {"HOME": str(ssh.parent), "XDG_RUNTIME_DIR": str(sockets)}
    made = Laptop(laptop.home, laptop.emulator_home, extra)
    made("--name", "cluster", "up", "--image", "slurm", "--gpu", "none", cwd=repository)
    made("--name", "cluster", "ssh-config", cwd=repository)
    jump = Sshd(base / "jump", sockets)
    jump.authorized.write_bytes(next((laptop.home / "data").rglob("*.pub")).read_bytes())
    jump.start()
    (ssh / "known").write_text(f"[127.0.0.1]:{jump.port} {jump.host_key}\n")
    entry = (laptop.home / "data" / "ssh-config" / "hosts").read_text()
    lines = entry[entry.index("Host cluster.local.vmctl") :].splitlines()[1:]
    kept = [line for line in lines if "Proxy" not in line]
    key = next(line for line in kept if "IdentityFile" in line)
    with (ssh / "config").open("a") as config:
        config.write("\n".join(["Host lab", "    ProxyJump jump", *kept, ""]))
        config.write(
            f"Host jump\n    HostName 127.0.0.1\n    Port {jump.port}\n    User {jump.user}\n"
            f"{key}\n    UserKnownHostsFile {ssh}/known\n"
        )
    yield made
    made("--name", "cluster", "down", "--delete", "--yes", cwd=repository, code=None)
    jump.power_off()
    shutil.rmtree(sockets, ignore_errors=True)


@contextlib.contextmanager
def opened(laptop: Laptop, service: str, cwd: Path) -> Iterator[str]:
    """`vmctl tunnel SERVICE` in another terminal; its URL."""
    log = cwd.parent / f"{service}.log"
    with log.open("wb") as file:
        client = laptop.start("tunnel", service, cwd=cwd, stdout=file, stderr=file)
    try:
        found: Callable[[], re.Match[str] | None] = lambda: re.search(  # noqa: E731
            r"http://\S+", log.read_text()
        )
        yield eventually(lambda: found() or client.poll() is not None, within_s=120).group()
    finally:
        os.kill(client.pid, signal.SIGINT)
        assert client.wait(timeout=20) == 0, log.read_text()


def get(path: str) -> Any:
    with urllib.request.urlopen(TENSORBOARD + path, timeout=20) as answer:
        return json.load(answer)


# every text on the page, inside web components, too
ALL_TEXT = """
const texts = [];
const walk = (node) => {
  if (node.nodeType === Node.TEXT_NODE) { texts.push(node.textContent); return; }
  if (node.shadowRoot) walk(node.shadowRoot);
  if (node.nodeName !== 'STYLE' && node.nodeName !== 'SCRIPT') node.childNodes.forEach(walk);
};
walk(document.body);
return texts.join(' ');
"""


def test_the_main_job_word_for_word(
    laptop: Laptop, repository: Path, photos: str, browser: Any
) -> None:
    told = laptop.typed("vmctl up --gpu t4", repository)
    assert "T4" in told
    told = laptop.typed("vmctl push && vmctl run colorize", repository, LANDSCAPES_URL=photos)
    assert "epoch 1" in told
    assert "PSNR" in told

    with opened(laptop, "tensorboard", repository) as url:
        assert url.rstrip("/") in {TENSORBOARD, TENSORBOARD.replace("127.0.0.1", "localhost")}
        (run,) = (name for name, tags in get("/data/plugin/images/tags").items() if tags)
        assert {"Input", "Predicted", "Ground truth"} <= set(get("/data/plugin/images/tags")[run])
        assert "training loss" in get("/data/plugin/scalars/tags")[run]
        look(browser, repository.parent)

    laptop.typed("vmctl fetch unet.pth", repository)
    there = laptop("exec", "sha256sum", "workload/unet.pth", cwd=repository).stdout.split()[0]
    here = subprocess.run(["sha256sum", repository / "unet.pth"], capture_output=True, check=True)
    assert here.stdout.decode().split()[0] == there
    assert zipfile.is_zipfile(repository / "unet.pth"), "torch.save's format"
    laptop.typed("vmctl fetch", repository)
    with Image.open(repository / "sample.png") as picture:
        assert picture.width > 3 * 32

    line = "vmctl run colorize --test_net unet.pth --images examples"
    told = laptop.typed(line, repository, LANDSCAPES_URL=photos)
    assert "Coloured 4 pictures" in told
    laptop.typed("vmctl fetch colorized.html", repository)
    browser.get((repository / "colorized.html").as_uri())
    sliders = browser.find_elements("css selector", ".slider img")
    assert [slider.get_property("naturalWidth") > 300 for slider in sliders] == 8 * [True]

    laptop.typed("vmctl down", repository)
    assert "TERMINATED" in laptop("ls", cwd=repository).stdout


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", ["lab", "cluster"])
def test_the_same_lines_on_a_server_and_on_a_cluster(
    desk: Laptop, repository: Path, photos: str, browser: Any, target: str
) -> None:
    there = Laptop(desk.home, desk.emulator_home, {**desk.extra, "VMCTL_ON": target})
    (repository / "unet.pth").unlink(missing_ok=True)
    told = there.typed("vmctl up", repository)
    assert "torch" in told
    line = "vmctl push && vmctl run colorize"
    told = there.typed(line, repository, LANDSCAPES_URL=photos)
    assert "PSNR" in told
    assert ", torch 2." in there.typed("vmctl run hello -- --name Ada", repository)
    assert "Hello, Ada!" in there.typed("vmctl run hello_package -- --name Ada", repository)
    with opened(there, "tensorboard", repository) as url:
        browser.get(f"{url}?timeseries#timeseries")
        shown = partial(shows, browser, "training loss", "validation PSNR")
        eventually(shown, "the curves", within_s=120, gap_s=GAP_S)
    there.typed("vmctl fetch unet.pth", repository)
    far = there("exec", "sha256sum", "workload/unet.pth", cwd=repository).stdout.split()[0]
    assert hashlib.sha256((repository / "unet.pth").read_bytes()).hexdigest() == far
    assert {run["state"] for run in there.json("ps", cwd=repository)} == {"succeeded"}
    assert "not vmctl's to stop" in there.typed("vmctl down", repository)


def shows(browser: Any, *words: str) -> bool:
    """Whether all of these are on the page."""
    text = browser.execute_script(ALL_TEXT)
    return all(word in text for word in words)


def look(browser: Any, folder: Path) -> None:
    """TensorBoard as a person sees it: scalars, pictures, and the graph's blocks."""
    screenshots = Path(os.environ.get("VMCTL_TEST_SCREENSHOTS", folder))
    for tab, words in {
        "timeseries": ["training loss", "validation PSNR"],
        "images": ["Predicted", "Ground truth", "Input"],
        "graphs": ["UNet"],
    }.items():
        browser.get(f"{TENSORBOARD}/?{tab}#{tab}")  # another address: the page is loaded anew
        try:
            shown = partial(shows, browser, *words)
            eventually(shown, f"{words} under {tab}", within_s=120, gap_s=GAP_S)
            if tab == "graphs":
                opened = partial(opened_graph, browser)
                names = eventually(opened, "the node UNet opens", within_s=180, gap_s=GAP_S)
                inside = " ".join(names)
                for number in (1, 2, 3):
                    assert f"DownSampleBlock[downsample_block_{number}]" in inside
                    assert f"UpSampleBlock[upsample_block_{number}]" in inside
        finally:
            browser.save_screenshot(str(screenshots / f"tensorboard-{tab}.png"))


def opened_graph(browser: Any) -> list[str]:
    """What the graph's node UNet holds; a double click opens it once the page is laid out.

    After a click the page has time: a second one, on a slow machine, would close what the first
    is about to open.
    """
    from selenium.common.exceptions import TimeoutException, WebDriverException
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    with contextlib.suppress(TimeoutException, WebDriverException):  # not laid out yet
        box, inside = browser.execute_script(GRAPH_NODES)
        if box is not None and not inside:
            ActionChains(browser).double_click(box).perform()
            wait = WebDriverWait(browser, 20)
            inside = wait.until(lambda page: page.execute_script(GRAPH_NODES)[1])
        return list(inside)
    return []


# the box of the graph's node "UNet", wherever the page keeps it, and the names of what is in it
GRAPH_NODES = """
const nodes = [];
const walk = (root) => {
  for (const node of root.querySelectorAll('*')) {
    if (node.matches('g.node')) nodes.push(node);
    if (node.shadowRoot) walk(node.shadowRoot);
  }
};
walk(document);
const root = nodes.find((node) => node.dataset.name === 'UNet');
const names = nodes.map((node) => node.dataset.name || '');
return [root ? root.querySelector('rect') : null, names.filter((name) => name.startsWith('UNet/'))];
"""
