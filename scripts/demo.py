"""What scripts/demo does: set everything up, run the main job, and show it on one page.

Standard library only, for it starts before anything is installed. Steps that need nothing of each
other overlap. Each is a process, and none outlives the demo, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.demo_page import Step, page, verdict

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo-output"
TENSORBOARD_PORT = 8898
LAST_LINES = 12  # of what a failed step said
ANSWER_S = 60.0  # for TensorBoard to show what was trained
END_S = 10.0  # for a process to end by itself when the demo is stopped
TOLD_END_S = 3.0  # the same, for one that Ctrl-C has told already
# Steps that are not stopped half-way: dpkg would leave a system to repair, and an emulator that is
# not yet ready cannot be told to stop.
INSTALL_S, START_S = 300.0, 60.0


class StepFailed(Exception):
    """A step did not do what it should; the message says which."""


class Process:
    """A step that goes on in the background, in a session of its own."""

    def __init__(self, step: Step, log: Path, words: list[str], environ: dict[str, str]) -> None:
        self.step, self.log = step, log
        self.program = step.title  # what is waited for, to the user
        self.whole_s = 0.0  # so long it is given to do all that it has to, even when the demo stops
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                words,
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the demo's to act on
            )
        self.reported = False
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        self.process.wait()
        self.step.end()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        self._watcher.join()
        return self.process.returncode

    def stop(self) -> None:
        """End it with all that it started."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.whole_s)
        self._signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        self._signal(signal.SIGKILL)
        self._watcher.join()

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)


class Demo:
    """One run of the demo: its steps so far, and what must not outlive it."""

    def __init__(self, base: Path) -> None:
        self.base, self.steps, self.began = base, list[Step](), time.monotonic()
        self.foreground: subprocess.Popen[bytes] | None = None
        self.background: list[Process] = []
        kept = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("VMCTL_") or name == "VMCTL_EMULATOR_IMAGES"
        }
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # or every command would compile all of vmctl
        self.environ = kept | {
            # An emulator and a home of the demo's own: what you rehearse yourself is not touched.
            "VMCTL_LOCAL": "1",
            "VMCTL_HOME": str(base / "home"),
            "VMCTL_EMULATOR_HOME": str(base / "emulator"),
            "VMCTL_NAME": "demo",
            "PATH": f"{ROOT / '.venv/bin'}:{kept.get('PATH', os.defpath)}",
        }

    def run(self, *words: str) -> None:
        """Run a command as a user types it, with all that it shows; StepFailed if it fails."""
        self.report()
        line = shlex.join(words)
        say(f"\n{bold('$ ' + line)}")
        step = self.new_step(line)
        self.foreground = subprocess.Popen(words, cwd=ROOT, env=self.environ)
        code = self.foreground.wait()
        self.foreground = None
        step.end()
        say(faint(f"  {step.took:.1f} s"))
        if code:
            raise StepFailed(f"'{line}' ended with exit code {code}")

    def start(self, title: str, *words: str, whole_s: float = 0.0, program: str = "") -> Process:
        """Start a step in the background; one that is not to be stopped half-way has `whole_s`.

        `program` is what the user is told to wait for then; the title if it is empty.
        """
        say(faint(f"… {title}"))
        log = self.base / f"{len(self.steps)}.log"
        process = Process(self.new_step(title), log, list(words), self.environ)
        process.whole_s, process.program = whole_s, program or title
        self.background.append(process)
        return process

    def finish(self, process: Process) -> None:
        """Wait for a step in the background; StepFailed, after its last words, if it failed."""
        if code := process.wait():
            lines = process.log.read_text(errors="replace").splitlines()
            say("\n".join([line for line in lines if line.strip()][-LAST_LINES:]))
            raise StepFailed(f"'{process.step.title}' ended with exit code {code}")
        self.report()

    def report(self) -> None:
        """Tell which steps in the background have ended well since the last time."""
        for process in self.background:
            if process.process.returncode == 0 and not process.reported:
                process.wait()
                process.reported = True
                say(f"✓ {process.step.title} {faint(f'({process.step.took:.1f} s)')}")

    def new_step(self, title: str) -> Step:
        """A step that begins now."""
        step = Step(title, time.monotonic() - self.began, self.began)
        self.steps.append(step)
        return step

    def close(self) -> None:
        """End all that still runs, the emulator and its machines included."""
        if self.foreground is not None:  # Ctrl-C on a terminal has told it, too
            for end in (self.foreground.terminate, self.foreground.kill):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.foreground.wait(TOLD_END_S)
                    break
                end()
            self.foreground.wait()
        for process in self.background:
            if process.process.poll() is None:
                if minutes := round(process.whole_s / 60):
                    limit = f"{minutes} minute{'s' if minutes > 1 else ''}"
                    say(f"Letting {process.program} finish first (up to {limit})")
                process.stop()
        if (self.base / "emulator").exists():
            stop = [str(ROOT / ".venv/bin/vmctl"), "emulator", "stop", "--quiet"]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(stop, env=self.environ, capture_output=True, timeout=60)


# --- the story


def set_up(demo: Demo) -> Process:
    """Install what is missing; the image may go on being built when this returns."""
    lib = ". scripts/lib.sh; "
    install = ["bash", "-c", lib + "need_machine_programs"]
    packages = demo.start("Debian packages", *install, whole_s=INSTALL_S, program="apt-get")
    # Without Debian's python3-venv there is no .venv: then one after the other.
    ready = subprocess.run(["bash", "-c", lib + "find_python"], cwd=ROOT, capture_output=True)
    if ready.returncode:
        demo.finish(packages)
    environment = demo.start(".venv with vmctl", "bash", "-c", lib + "need_venv ''")
    demo.finish(packages)
    demo.finish(environment)
    python = str(ROOT / ".venv/bin/python")
    build = [python, "-m", "vmctl.emulator", "image", "build", "pytorch"]
    image = demo.start("the machines' image (about 5 GB, built once)", *build)
    emulator = ["vmctl", "emulator", "start"]
    demo.finish(demo.start(shlex.join(emulator), *emulator, whole_s=START_S))
    return image


def main_job(demo: Demo, image: Process) -> tuple[list[Any], list[Any]]:
    """Run the four lines and what belongs to them; the history and the curve of the loss."""
    demo.run("vmctl", "doctor")
    demo.run("vmctl", "gpus", "--gpu", "t4", "--region", "europe-west1")
    if image.process.poll() is None:
        say(f"\nThe first machine needs {image.step.title}: waiting for it.")
    demo.finish(image)
    demo.run("vmctl", "up", "--gpu", "t4")
    demo.run("vmctl", "status")
    demo.run("vmctl", "push")

    port = free_port(TENSORBOARD_PORT)
    words = ["vmctl", "tunnel", "tensorboard"]
    words += [] if port == TENSORBOARD_PORT else ["--port", str(port)]
    say(f"\n{bold(f'$ {shlex.join(words)} &')}")
    url = f"http://127.0.0.1:{port}"
    say(f"TensorBoard will be at {url} while the job trains.")
    tunnel = demo.start(shlex.join(words), *words)
    demo.run("vmctl", "run", "colorize")
    losses = training_loss(demo, tunnel, url)
    tunnel.stop()

    OUTPUT.mkdir(exist_ok=True)
    demo.run("vmctl", "fetch", "unet.pth", "sample.png", "history.json", "--to", OUTPUT.name)
    demo.run("vmctl", "ps")
    demo.run("vmctl", "down")
    demo.run("vmctl", "ls")
    demo.run("vmctl", "emulator", "stop")
    return json.loads((OUTPUT / "history.json").read_text()), losses


def free_port(wanted: int) -> int:
    """The port that is wanted, or another one if somebody has it."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StepFailed("no port is free on this computer")


def training_loss(demo: Demo, tunnel: Process, url: str) -> list[Any]:
    """The loss at each step, as TensorBoard shows it through the tunnel: [seconds, step, loss]."""
    tag = "training loss"

    def get(path: str, **query: str) -> Any:
        asked = f"{url}/data/plugin/scalars/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.load(answer)

    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline and tunnel.process.poll() is None:
        with contextlib.suppress(OSError, ValueError):  # not there yet
            shown = get("tags")
            if runs := [run for run, tags in shown.items() if tag in tags]:
                points = get("scalars", tag=tag, run=max(runs))
                others = ", ".join(sorted({name for tags in shown.values() for name in tags}))
                say(f"TensorBoard at {url} shows through the tunnel: {others}")
                return list(points)
        time.sleep(0.3)  # between two questions; the deadline above ends them
    say(tunnel.log.read_text(errors="replace"))
    raise StepFailed(f"TensorBoard does not answer at {url}")


def show(demo: Demo, history: list[Any], losses: list[Any]) -> None:
    """Write the page, and say where all of it lies."""
    took = time.monotonic() - demo.began
    sample = (OUTPUT / "sample.png").read_bytes()
    words = verdict(history)
    target = OUTPUT / "demo.html"
    target.write_text(page(demo.steps, took, words, history, losses, sample), encoding="utf-8")
    say(f"\n{bold(f'Done in {int(took // 60)} min {took % 60:.0f} s.')} {words}")
    say(f"The weights are in {OUTPUT / 'unet.pth'}; the pictures, the curve and the times:")
    say(f"{target}")


# --- the program


def say(text: str) -> None:
    print(text, flush=True)


def bold(text: str) -> str:
    return f"\033[1;36m{text}\033[0m" if sys.stdout.isatty() else text


def faint(text: str) -> str:
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() else text


@contextlib.contextmanager
def demo_in_a_folder_of_its_own() -> Iterator[Demo]:
    """A demo, of which nothing but its output is left when the block ends."""
    base = Path(tempfile.mkdtemp(prefix="vmctl-demo-", dir="/var/tmp"))
    base.chmod(0o755)  # the machines' users must reach their disks
    demo = Demo(base)
    try:
        yield demo
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)  # what is being ended is ended to the end
        demo.close()
        shutil.rmtree(base, ignore_errors=True)


def stopped(signum: int, _: object) -> None:
    """Treat SIGTERM and SIGHUP like Ctrl-C."""
    raise KeyboardInterrupt


def main() -> int:
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stopped)
    try:
        with demo_in_a_folder_of_its_own() as demo:
            history, losses = main_job(demo, set_up(demo))
            show(demo, history, losses)
    except StepFailed as error:
        print(f"\nThe demo stopped: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nThe demo was stopped. Nothing of it is running.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
