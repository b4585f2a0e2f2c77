"""What install.sh asks of Python, in one start of it: python3 -ISB -c THIS and

`check LIBRARY NAME [VERB]`: exit code NOT_WHOLE unless the helpers in that folder are whole;
`place LIBRARY NAME PART [VERB]`: compile those in PART, look whether they are whole, and give them
their place. Then the verb, where there is one, with its request on standard input.

Their name is a digest of their sources. A cache that a full disk cut short keeps a module from
being imported, whatever its source says.
"""

import hashlib
import marshal
import shutil
import sys
from pathlib import Path

HEADER_BYTES = 16  # of a compiled file, before the code
NOT_INSTALLED = 95  # as in protocol.py
NOT_WHOLE = 93  # no verb ends with it


def sources(folder: Path) -> "list[Path]":
    """Every source, in the order of the digest."""
    found = [folder / "__main__.py", *(folder / "vmctl_guest").rglob("*.py")]
    return sorted(found, key=lambda path: str(path.relative_to(folder)))


def is_whole(folder: Path, name: str) -> bool:
    """Whether the sources are those of this name, and every compiled file can be read."""
    digest = hashlib.sha256()
    try:
        for source in sources(folder):
            data = source.read_bytes()
            digest.update(f"{source.relative_to(folder)}\0{len(data)}\0".encode() + data)
        if digest.hexdigest()[:16] != name:
            return False
        for compiled in folder.rglob("*.pyc"):
            marshal.loads(compiled.read_bytes()[HEADER_BYTES:])
    except Exception:  # whatever half a file makes of it
        return False
    return True


def compile_all(folder: Path) -> None:
    """Compile now: what runs later writes no cache, so a full disk does not matter."""
    import py_compile

    for source in sources(folder):
        try:
            py_compile.compile(str(source), doraise=True)
        except (OSError, py_compile.PyCompileError):
            continue


def place(library: Path, name: str, part: Path) -> bool:
    """Whether whole helpers are in their place now, these or somebody else's."""
    compile_all(part)
    if not is_whole(part, name):
        for cache in sorted(part.rglob("__pycache__")):
            shutil.rmtree(cache, ignore_errors=True)
        if not is_whole(part, name):
            return False
    try:
        if library.exists():
            library.rename(f"{part}.old")
    except OSError:
        pass
    try:
        part.rename(library)
    except OSError:  # somebody else may have been faster: theirs is the same
        return is_whole(library, name)
    return True


def main() -> int:
    """See above."""
    action, library, name, *more = sys.argv[1:]
    if action == "check":
        if not is_whole(Path(library), name):
            return NOT_WHOLE
    elif not place(Path(library), name, Path(more.pop(0))):
        sys.stderr.write("vmctl's helpers arrived incomplete\n")
        return NOT_INSTALLED
    if more:
        sys.argv[:] = [library, *more]
        sys.path.insert(0, library)
        exec((Path(library) / "__main__.py").read_bytes(), {"__name__": "__main__"})  # ends here
    return 0


if __name__ == "__main__":
    sys.exit(main())
