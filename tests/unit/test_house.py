"""The arrows of the house: imports go down only, and heavy ones wait until they are needed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.harness.startup import HEAVY

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vmctl"

# Who may import whom. A room that is not named may import nothing of vmctl.
ARROWS = {
    "__main__": {"cli", "domain"},
    "cli": {"cli", "workflows", "config", "domain"},
    "workflows": {
        "workflows",
        "cloud",
        "ssh",
        "guest",
        "config",
        "files",
        "folders",
        "clock",
        "domain",
    },
    "cloud": {"cloud", "config", "files", "folders", "clock", "domain", "data"},
    "ssh": {"ssh", "guest", "config", "files", "folders", "clock", "domain"},
    "guest": {"guest"},
    "config": {"domain"},
    "folders": {"domain"},
    "files": set(),
    "clock": {"domain"},
    "domain": {"domain"},
    "emulator": {"emulator"},
}
SOLE_IMPORTERS = {
    "googleapiclient": {"cloud"},
    "google": {"cloud"},
    "google_auth_httplib2": {"cloud"},
    "httplib2": {"cloud"},
    "fabric": {"ssh"},
    "paramiko": {"ssh"},
    "starlette": {"emulator"},
    "uvicorn": {"emulator"},
    "jsonschema": {"emulator"},
    "typer": {"cli", "__main__"},
    "rich": {"cli"},
}
PURE = {
    "abc", "__future__", "base64", "binascii", "codecs", "collections", "csv", "dataclasses",
    "datetime", "difflib", "enum", "fnmatch", "functools", "hashlib", "io", "ipaddress",
    "itertools", "json", "keyword", "math", "posixpath", "re", "shlex", "string", "textwrap",
    "types", "typing", "unicodedata", "urllib",
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree, which several of these tests look through."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a file's syntax tree."""
    return tuple(ast.walk(parsed(path)))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, inside functions and under TYPE_CHECKING, too."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                stem = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*stem, base]).rstrip(".")
            found.append(base)
            found += (f"{base}.{alias.name}" for alias in node.names)
    return tuple(found)


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == "vmctl" and len(parts) > 1}


def those(found: Mapping[Path, Collection[object]]) -> dict[str, Collection[object]]:
    """Of all files that were looked through, those in which something was found."""
    assert found, "this test looks at no file"
    return {str(path.relative_to(ROOT)): why for path, why in found.items() if why}


def test_imports_go_down_only() -> None:
    rooms = {name for name, _ in modules()}
    upwards = {
        path: rooms_imported(path) & rooms - ARROWS.get(room, set())
        for room, path in modules()
        if room != "__init__"
    }
    assert those(upwards) == {}


def test_a_library_has_one_room_that_imports_it() -> None:
    elsewhere = {
        path: [n for n in imports(path) if room not in SOLE_IMPORTERS.get(n.split(".")[0], {room})]
        for room, path in modules()
    }
    assert those(elsewhere) == {}


def test_the_domain_is_pure() -> None:
    # of pathlib only the paths that never touch a disk
    harmless = {"pathlib", "pathlib.PurePosixPath"}
    foreign = {
        path: {n.split(".")[0] for n in imports(path) if n not in harmless} - {"vmctl"} - PURE
        for path in sorted((PACKAGE / "domain").rglob("*.py"))
    }
    assert those(foreign) == {}


GUESTS = [PACKAGE / "guest", PACKAGE / "emulator" / "machines" / "guest"]


def test_guest_code_needs_the_standard_library_only() -> None:
    foreign = {
        path: {n.split(".")[0] for n in imports(path)} - {"vmctl"} - set(sys.stdlib_module_names)
        for folder in GUESTS
        for path in sorted(folder.rglob("*.py"))
    }
    assert those(foreign) == {}


def test_no_test_imports_another() -> None:
    """What tests share lies in tests/harness or in a conftest.py."""
    found = {
        str(path.relative_to(ROOT)): [name for name in imports(path) if ".test_" in f".{name}"]
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if "data" not in path.parts
    }
    assert not {path for path, names in found.items() if names}


@pytest.mark.parametrize("words", [["--help"], ["up", "--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import json, sys; from vmctl.__main__ import main; code = main(sys.argv[1:]);"
        "print('\\n' + json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert "vmctl" in done.stdout
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


def starts_git(path: Path) -> list[int]:
    """The lines of a file that name git as a program: the word itself, or a shell line with it."""
    return [
        node.lineno
        for node in nodes(path)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"(^|/|[;&|(]\s*)git( -| [a-z-]+( |$)|$)", node.value)
    ]


def test_git_is_started_in_one_module() -> None:
    found = {
        path: starts_git(path)
        for room in ("vmctl", "workload", "scripts")
        for path in sorted((ROOT / room).rglob("*.py"))
    }
    assert list(those(found)) == ["vmctl/workflows/sync/git.py"], those(found)


# -- one way to the emulator ----------------------------------------------------------------------

# Names that open a connection without proving who is at its other end.
OPENERS = {"HTTPConnection", "HTTPSConnection", "urlopen", "build_opener", "open_connection"}


def opened(path: Path) -> set[str]:
    """What a file has that leads to the emulator."""
    text = path.read_text(encoding="utf-8")
    called = {
        getattr(node.func, "attr", getattr(node.func, "id", ""))
        for node in nodes(path)
        if isinstance(node, ast.Call)
    }
    return called & OPENERS | {words for words in ("emulator.json", "emulator/v1") if words in text}


def test_the_emulator_is_opened_in_one_module() -> None:
    found = {path: opened(path) for path in on_the_laptop()}
    assert "emulator.json" in found.pop(PACKAGE / "cloud" / "emulator_process.py")
    assert those(found) == {}


def test_the_emulator_has_one_guarded_entry() -> None:
    """Whatever it comes to serve is served by the application that asks for the secret first."""
    text = (PACKAGE / "emulator" / "http" / "app.py").read_text(encoding="utf-8")
    assert "return require_secret(app, secret)" in text
    served = [
        path.name
        for path in sorted((PACKAGE / "emulator").rglob("*.py"))
        if "machines" not in path.parts
        and re.search(r"uvicorn\.Config\(|start_server\(|\.listen\(", path.read_text("utf-8"))
    ]
    assert served == ["server.py"]


# -- one way out to the terminal ------------------------------------------------------------------

ONE_WAY_OUT = "cli/terminal.py"
# of a standard stream everybody may ask these; whatever writes goes through the one module
ASKED = {"isatty", "flush", "fileno"}
PRINTERS = {
    "print", "echo", "secho", "Console", "print_exc", "print_exception", "print_tb", "basicConfig",
    "StreamHandler", "rprint", "print_json",
}  # fmt: skip
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
# starts OpenSSH's programs with the user's own streams where they are no terminal, or where the
# terminal on the VM is what was asked for
INHERITS = "ssh/session/openssh.py"


def on_the_laptop() -> list[Path]:
    """What runs as the `vmctl` program."""
    apart = {"guest", "emulator"}
    return [path for room, path in modules() if room not in apart]


def writers(path: Path) -> Iterator[str]:
    inside = {id(node.value) for node in nodes(path) if isinstance(node, ast.Attribute)
              and node.attr in ASKED}  # fmt: skip
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in PRINTERS:
                yield f"{name}() in line {node.lineno}"
            if name == "write" and isinstance(called, ast.Attribute) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and first.value in (1, 2):
                    yield f"os.write() to a standard stream in line {node.lineno}"
        elif (
            isinstance(node, ast.Attribute)
            and node.attr in STREAMS
            and isinstance(node.value, ast.Name)
            and node.value.id == "sys"
            and id(node) not in inside
        ):
            yield f"sys.{node.attr} in line {node.lineno}"
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            yield f"a part of sys in line {node.lineno}"


def test_all_that_is_printed_goes_one_way() -> None:
    found = {
        str(path.relative_to(PACKAGE)): list(writers(path))
        for path in on_the_laptop()
        if path != PACKAGE / ONE_WAY_OUT
    }
    assert {path: why for path, why in found.items() if why} == {}
    assert len(list(writers(PACKAGE / ONE_WAY_OUT))) > 3, "this test sees them where they are"


def inheriting(path: Path) -> Iterator[str]:
    """Programs started with our own standard output or error."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = node.func.value, node.func.attr
            given = {word.arg for word in node.keywords}
            if (
                isinstance(owner, ast.Name)
                and owner.id == "subprocess"
                and name in {"Popen", "run", "call", "check_call", "check_output"}
                and "capture_output" not in given
                and not {"stdout", "stderr"} <= given
            ):
                yield f"subprocess.{name} in line {node.lineno}"


def test_a_program_that_vmctl_starts_does_not_write_to_the_terminal_itself() -> None:
    found = {
        str(path.relative_to(PACKAGE)): list(inheriting(path))
        for path in on_the_laptop()
        if path != PACKAGE / INHERITS
    }
    assert {path: why for path, why in found.items() if why} == {}


# -- one way into a shell's completion ------------------------------------------------------------

COMPLETIONS = PACKAGE / "cli" / "completion.py"


def test_every_completion_passes_the_filter() -> None:
    """Each is made by `make_completion`, which drops what a shell may take for more than a word."""
    made = {
        target.id
        for node in ast.parse(COMPLETIONS.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") == "make_completion"
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    used = set()
    for _, path in modules():
        imported = {
            alias.asname or alias.name
            for node in nodes(path)
            if isinstance(node, ast.ImportFrom) and node.module == "vmctl.cli.completion"
            for alias in node.names
        }
        for node in nodes(path):
            if isinstance(node, ast.keyword):
                assert node.arg not in {"shell_complete", "completion"}, path
                if node.arg == "autocompletion":
                    assert isinstance(node.value, ast.Name), path
                    assert node.value.id in made & imported, (path, node.value.id)
                    used.add(node.value.id)
    assert used == made


# -- what a VM says ------------------------------------------------------------------------------

# who reads JSON that no VM wrote: records of our own on this computer, and Google's answers
OWN_JSON = {
    "cloud", "emulator", "guest", "cli", "__main__", "config",
    "ssh/identity/user_ssh_config", "workflows/base/agreements", "workflows/session/session",
    "workflows/setup/emulator", "workflows/costs/ledger_store", "workflows/setup/completion",
    "workflows/sync/hash_cache", "workflows/tunnels/registry", "workflows/tunnels/background",
    "domain/login/ssh_keys", "domain/vertex/job_state",
}  # fmt: skip
# who reads what a program sends without a limit: our own git's answers, the end of ssh's own log
OWN_STREAMS = {"workflows/sync/git", "ssh/session/control_master"}


def unchecked(room: str, path: Path) -> Iterator[str]:
    """Where a file reads JSON by itself, or from a VM without a limit."""
    name = str(path.relative_to(PACKAGE).with_suffix(""))
    for node in nodes(path):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called = node.func.attr
        if (
            called in ("load", "loads")
            and ast.unparse(node.func) in ("json.loads", "json.load")
            and not {room, name} & OWN_JSON
            and name != "domain/reply_shapes"
        ):
            yield f"JSON in line {node.lineno}"
        if room in ("ssh", "workflows") and name not in OWN_STREAMS:
            reads = called in ("read", "readline", "readlines") and not node.args
            if reads or called == "communicate":
                yield f"no limit in line {node.lineno}"


def test_what_a_vm_says_is_read_within_limits_and_checked_in_one_place() -> None:
    assert those({path: list(unchecked(room, path)) for room, path in modules()}) == {}


def test_every_verb_of_the_helpers_has_a_shape() -> None:
    from vmctl.domain.guest_replies import REPLIES
    from vmctl.guest.main import VERBS

    streams = {"push", "fetch", "pull"}  # record by record: push_reply, HEADER, TRAILER …
    assert set(REPLIES) == set(VERBS) - streams


# -- how the house is built ----------------------------------------------------------------------

NOUNS = ("staging", "listing", "billing", "paging")  # -ing words that are nouns of the field
FILES_A_FOLDER = 14
LINES_A_FUNCTION = 60


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_modules_are_nouns() -> None:
    folders = {path.parent for _, path in modules()}
    named = [path.stem for _, path in modules()] + [folder.name for folder in folders]
    assert [name for name in named if name.endswith("ing") and not name.endswith(NOUNS)] == []


def test_no_folder_holds_more_than_a_reader_takes_in() -> None:
    sizes: dict[str, int] = {}
    for _, path in modules():
        folder = str(path.parent.relative_to(PACKAGE))
        sizes[folder] = sizes.get(folder, 0) + 1
    sizes.pop("emulator/resources")  # one file per collection of Google's API
    assert {folder: size for folder, size in sizes.items() if size > FILES_A_FOLDER} == {}


def at_import(body: Iterable[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from at_import(node.body)
            yield from at_import(node.orelse)
        elif isinstance(node, ast.Try):
            yield from at_import(node.body)


def modules_imported(path: Path, known: Collection[str]) -> set[str]:
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    found: set[str] = set()
    for node in at_import(parsed(path).body):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        stem = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*stem, *([node.module] if node.module else [])])
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            found.add(whole if whole in known else base)
    return found & set(known) - {module_name(path)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {module_name(path): path for _, path in modules()}
    graph = {name: modules_imported(path, files) for name, path in files.items()}
    # whoever imports nothing that is left is on no circle; what is left at the end is
    while free := {name for name, wanted in graph.items() if not wanted & graph.keys()}:
        for name in free:
            del graph[name]
    assert sorted(graph) == []


def test_a_public_class_name_exists_once() -> None:
    """Outside the emulator, which is a program of its own."""
    homes: dict[str, list[str]] = {}
    for room, path in modules():
        for node in parsed(path).body:
            if room != "emulator" and isinstance(node, ast.ClassDef) and node.name[0] != "_":
                homes.setdefault(node.name, []).append(module_name(path))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_a_function_fits_on_a_page() -> None:
    """Declarations do not count: a command's options are a table."""
    long: dict[Path, Collection[object]] = {path: [] for _, path in modules()}
    for path in long:
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                lines = (node.end_lineno or 0) - first.lineno + 1
                if lines > LINES_A_FUNCTION:
                    long[path] = [*long[path], f"{node.name}: {lines} lines"]
    assert those(long) == {}
