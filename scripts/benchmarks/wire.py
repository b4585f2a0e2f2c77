"""Times what crosses the link, ours and the peers' in turn on the same machine, in one run.

Every figure is a whole process: interpreter, imports, and all. `imports` is measured in the
same turns: the same process importing the same modules and ending. `round trips` is the slope
between 30 and 80 ms. Peers get a warm ControlMaster of their own, unless they are called cold.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scripts.benchmarks import trees
from scripts.benchmarks.cloud import VMCTL
from scripts.benchmarks.programs import RAW_CLIENT, RAW_SERVER
from scripts.benchmarks.rig import (
    IMPORTS,
    Bench,
    Machine,
    RowError,
    Trees,
    at_least,
    compare_with,
    in_turn,
    on_the_wire,
    show,
    slope,
    title,
    verdict,
)
from tests.harness.eventually import NotInTime
from tests.harness.link import CLOUD_ADDRESS, Link, LinkError
from vmctl.workflows.sync.hash_cache import RACY_NS


def row_exec(bench: Bench, machines: Trees) -> None:
    machine = machines["a"]
    imports = bench.imports_of(machine, "exec", "true")
    seen = {}
    for rtt_ms in (30, 80):
        bench.on_a_link(rtt_ms)
        machine.warm_up()
        title(f"warm exec of `true`, {rtt_ms} ms")
        times = in_turn(
            {
                "vmctl exec": lambda: machine.vmctl("exec", "true"),
                "ssh over a warm mux": lambda: machine.ssh("true"),
                "ssh cold": lambda: machine.ssh("true", warm=False),
                IMPORTS: imports,
            },
            bench.runs,
        )
        show(times, "vmctl exec")
        seen[rtt_ms] = times["vmctl exec"]
        rest = times["vmctl exec"].median - times[IMPORTS].median - 2 * rtt_ms
        verdict(bench, f"exec {rtt_ms} ms: beyond 2 round trips + imports", rest, 60, " ms")
        on_the_wire(bench, lambda: machine.vmctl("exec", "true"))
    print(f"  round trips, by the slope: {slope(seen[30], seen[80]):.2f}")


def _push_peers(machine: Machine) -> dict[str, Callable[[], float]]:
    everything = ("-az", "--delete", "--exclude=/vmctl.toml")
    return {
        "vmctl push": lambda: machine.vmctl("push"),
        "rsync -az warm": lambda: machine.rsync("./", ":peer/", *everything),
        "rsync -az cold": lambda: machine.rsync("./", ":peer/", *everything, warm=False),
    }


NOOP_REACH = {30: 0.8, 80: 0.5}  # times a warm rsync, by the milliseconds there and back


def row_noop(bench: Bench, machines: Trees) -> None:
    for name in ("a", "b"):
        machine = machines[name]
        bench.on_a_link(0, None)
        for contestant in _push_peers(machine).values():
            contestant()
        # what was just made is read again, not trusted by its times, which nobody can set back (one
        # is the inode's own): it has to grow old
        time.sleep(RACY_NS / 1e9 + 0.1)
        machine.vmctl("push")
        imports = bench.imports_of(machine, "push")
        seen = {}
        for rtt_ms in (30, 80):
            bench.on_a_link(rtt_ms)
            machine.warm_up()
            title(f"push of {name}, nothing changed, {rtt_ms} ms")
            contestants = _push_peers(machine)
            times = in_turn({**contestants, IMPORTS: imports}, bench.runs)
            show(times, "vmctl push")
            ours = times["vmctl push"]
            seen[rtt_ms] = ours
            rest = ours.median - times[IMPORTS].median - 3 * rtt_ms
            what = f"no-op push {name} {rtt_ms} ms"
            verdict(bench, f"{what}: beyond 3 round trips + imports", rest, 60, " ms")
            compare_with(bench, what, times, "rsync -az warm", NOOP_REACH[rtt_ms])
            on_the_wire(bench, contestants["vmctl push"])
        print(f"  round trips, by the slope: {slope(seen[30], seen[80]):.2f}")


def row_one(bench: Bench, machines: Trees) -> None:
    machine = machines["b"]
    files = sorted(machine.folder.rglob("*.py"))
    bench.on_a_link(0, None)
    contestants = _push_peers(machine)
    for contestant in contestants.values():
        contestant()
    imports = bench.imports_of(machine, "push")
    changes = iter(range(1, 100_000))
    bench.on_a_link(30)
    machine.warm_up()
    title("push of b, one file changed, 30 ms")

    def change(name: str, turn: int) -> None:
        number = next(changes)
        trees.change_one(files[number % len(files)], number)

    del contestants["rsync -az cold"]
    times = in_turn({**contestants, IMPORTS: imports}, bench.runs, before=change)
    show(times, "vmctl push")
    rest = times["vmctl push"].median - times[IMPORTS].median - 3 * 30
    print(f"  beyond 3 round trips and imports {rest:.0f} ms")
    compare_with(bench, "one-file push b 30 ms", times, "rsync -az warm", 0.8)
    change("", 0)
    on_the_wire(bench, contestants["vmctl push"])


# What a push left on the VM and here: a first push finds nothing of it.
FORGET = "chmod -R u+w Workspace peer 2>/dev/null; rm -rf Workspace peer .vmctl/push .vmctl/tmp"


def _forget(machine: Machine) -> None:
    machine.ssh(FORGET)
    for path in (machine.bench.base / "home" / "cache").iterdir():
        if path.name != "targets":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def row_first(bench: Bench, machines: Trees) -> None:
    machine = machines["b"]
    bench.on_a_link(30)
    machine.warm_up()
    title("first push of b, 30 ms, 100 Mbit/s")
    tar = "tar -c . | gzip -1 | ssh -F $CONFIG $VM 'mkdir -p peer && tar -xz -C peer'"
    times = in_turn(
        {
            "vmctl push": lambda: machine.vmctl("push"),
            "tar | gzip -1 | ssh warm": lambda: machine.shell(tar),
            "rsync -az warm": lambda: machine.rsync("./", ":peer/", "-az"),
        },
        bench.runs,
        before=lambda name, turn: _forget(machine),
        warm_up=False,
    )
    show(times, "vmctl push")
    compare_with(bench, "first push b", times, "tar | gzip -1 | ssh warm", 1.1)
    compare_with(bench, "first push b", times, "rsync -az warm", 1.0)


def row_gcloud(bench: Bench, machines: Trees) -> None:
    machine = machines["tenth"]
    bench.on_a_link(30)
    machine.warm_up()
    contestants: dict[str, Callable[[], float]] = {"vmctl push": lambda: machine.vmctl("push")}
    scp = ["scp", "-q", "-r", "-F", machine.cold, "."]
    peer = "scp -r cold (gcloud is not here)"
    if shutil.which("gcloud"):
        peer = "gcloud compute scp --recurse"
        bench.let_gcloud_in(machine)
        about = json.loads(bench.text([VMCTL, "status", "--json"], cwd=machine.folder))["machine"]
        user = bench.text([VMCTL, "exec", "--", "id", "-un"], cwd=machine.folder).strip()
        (bench.base / "gcloud-home").mkdir(exist_ok=True)
        scp = [
            "env", f"HOME={bench.base}/gcloud-home", "gcloud", "compute", "scp", "--recurse",
            "--quiet", "--zone", str(about["zone"]), "--strict-host-key-checking=yes",
        ]  # fmt: skip
        machine.ssh("mkdir -p peer")
        target = f"{user}@{about['name']}"
        with contextlib.suppress(RowError):  # the first one makes a key and learns the host's
            bench.run([*scp[:-1], "vmctl.toml", f"{target}:peer/"], cwd=machine.folder)
        scp += [".", f"{target}:peer/"]
    else:
        scp.append(f"{machine.host}:peer/")
    contestants[peer] = lambda: bench.run(scp, cwd=machine.folder)
    title("first push of a tenth of b (200 files), 30 ms, 100 Mbit/s")

    def forget(name: str, turn: int) -> None:
        _forget(machine)
        machine.ssh("mkdir -p peer")

    times = in_turn(contestants, 2, before=forget, warm_up=False)
    show(times, "vmctl push")
    faster = times[peer].median / times["vmctl push"].median
    at_least(bench, f"first push of a tenth of b: times faster than {peer}", faster, 20)


def row_delta(bench: Bench, machines: Trees) -> None:
    machine = machines["c"]
    bench.on_a_link(0, None)
    contestants = _push_peers(machine)
    del contestants["rsync -az cold"]
    for contestant in contestants.values():
        contestant()
    bench.on_a_link(30)
    machine.warm_up()
    title("push of c, a 70 MB file changed in one place, 30 ms, 100 Mbit/s")
    changes = iter(range(1, 1000))
    archive = machine.folder / "data" / "archive.bin"
    contestants["rsync -a warm"] = lambda: machine.rsync("./", ":peer/", "-a", "--delete")
    times = in_turn(
        contestants,
        max(3, bench.runs // 2),
        before=lambda name, turn: trees.change_one(archive, next(changes)),
    )
    show(times, "vmctl push")
    best = min(("rsync -az warm", "rsync -a warm"), key=lambda peer: times[peer].least)
    compare_with(bench, "70 MB file changed", times, best, 1.3)


def row_fetch(bench: Bench, machines: Trees) -> None:
    machine, size = machines["a"], 30_000_000
    machine.ssh(f"mkdir -p Workspace/a && head -c {size} /dev/urandom > Workspace/a/model.pth")
    imports = bench.imports_of(machine, "fetch", "model.pth", "--to", "got")
    bench.on_a_link(80)
    machine.warm_up()
    server = [*bench.link.cloud, sys.executable, "-c", RAW_SERVER.format(address=CLOUD_ADDRESS)]
    client = [sys.executable, "-I", "-S", "-c", RAW_CLIENT.format(address=CLOUD_ADDRESS), str(size)]
    title("fetch of 30 MB, 80 ms, 100 Mbit/s")
    got = machine.folder / "got"

    def clean(name: str, turn: int) -> None:
        shutil.rmtree(got, ignore_errors=True)
        got.mkdir()

    remote = "Workspace/a/model.pth"
    with subprocess.Popen(server, stdout=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        serving.stdout.readline()
        try:
            times = in_turn(
                {
                    "vmctl fetch": lambda: machine.vmctl("fetch", "model.pth", "--to", "got"),
                    "raw TCP": lambda: bench.run(client, cwd=machine.folder),
                    "ssh cat warm": lambda: machine.shell(
                        f"ssh -n -F $CONFIG $VM cat {remote} > got/model.pth"
                    ),
                    "rsync -a warm": lambda: machine.rsync(f":{remote}", "got/", "-a"),
                    "scp warm": lambda: machine.shell(f"scp -qF $CONFIG $VM:{remote} got/"),
                    IMPORTS: imports,
                },
                max(3, bench.runs // 2),
                before=clean,
            )
        finally:
            serving.kill()
    shutil.rmtree(got)
    show(times, "vmctl fetch")
    compare_with(bench, "fetch 30 MB 80 ms", times, "raw TCP", 1.07)


Row = Callable[[Bench, Trees], None]


def all_rows() -> dict[str, Row]:
    """Every row by its name."""
    from scripts.benchmarks import cuts, starts

    return {
        "start": starts.row_start,
        "status": starts.row_status,
        "exec": row_exec,
        "noop": row_noop,
        "one": row_one,
        "first": row_first,
        "gcloud": row_gcloud,
        "delta": row_delta,
        "fetch": row_fetch,
        "cut": cuts.row_cut,
        "tunnel": cuts.row_tunnel,
        "heal": cuts.row_heal,
        "stale": cuts.row_stale,
    }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="vw-", dir="/var/tmp"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


def run(runs: int, wanted: Sequence[str]) -> None:
    """Measure the rows named, or all; a row that fails does not keep the others from theirs."""
    rows = all_rows()
    with _folder() as base, contextlib.ExitStack() as stack:
        try:
            link = stack.enter_context(Link.opened())
        except LinkError as error:
            print(f"\nThe wire is left out: {error}.")
            return
        bench = Bench(link, base, runs)
        machines = Trees(bench)
        try:
            for name in wanted or rows:
                try:
                    rows[name](bench, machines)
                except (RowError, NotInTime, subprocess.SubprocessError, OSError) as error:
                    print(f"  FAILED  {name}: {error}", flush=True)
                    bench.failed.append(f"{name}: not measured")
        finally:
            bench.on_a_link(0, None)
        print("\nThe rows of this run:")
        for line in bench.verdicts:
            print(line)
        print("\nOut of reach:" if bench.failed else "\nAll within reach.")
        for line in bench.failed:
            print(f"  {line}")
