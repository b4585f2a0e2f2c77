"""Whether the helpers in a folder are whole: python3 -IB -c THIS FOLDER NAME; exit code 0 or 1.

Their name is a digest of their sources. A cache that a full disk cut short keeps a module from
being imported, whatever its source says.
"""

import hashlib
import marshal
import sys
from pathlib import Path

HEADER_BYTES = 16  # of a compiled file, before the code


def is_whole(folder: Path, name: str) -> bool:
    """Whether the sources are those of this name, and every compiled file can be read."""
    digest = hashlib.sha256()
    sources = [folder / "__main__.py", *(folder / "vmctl_guest").glob("*.py")]
    for source in sorted(sources, key=lambda path: str(path.relative_to(folder))):
        data = source.read_bytes()
        digest.update(f"{source.relative_to(folder)}\0{len(data)}\0".encode() + data)
    if digest.hexdigest()[:16] != name:
        return False
    for compiled in folder.rglob("*.pyc"):
        marshal.loads(compiled.read_bytes()[HEADER_BYTES:])
    return True


if __name__ == "__main__":
    try:
        sys.exit(0 if is_whole(Path(sys.argv[1]), sys.argv[2]) else 1)
    except (OSError, EOFError, ValueError, TypeError):
        sys.exit(1)
