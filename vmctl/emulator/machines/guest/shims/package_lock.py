#!/usr/bin/python3 -IS
"""The package manager's lock, taken as dpkg takes it: a POSIX lock on lock-frontend.

`hold FILE NAME wait|no wait`: hold it under a process name until standard input ends.
`await FILE SECONDS`: return once the lock is free; 1, with dpkg's message, after SECONDS.
"""

import fcntl
import os
import sys
import time
from pathlib import Path

PR_SET_NAME = 15


def hold(file: str, name: str, patience: str) -> int:
    """Print on standard output that it is held, or waited for; end with standard input."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    with Path(file).open("a") as lock:
        Path(file).chmod(0o640)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if patience != "wait":
                return 1
            print("waiting", flush=True)
            print(f"{name}: waiting for the lock {file}", file=sys.stderr, flush=True)
            fcntl.lockf(lock, fcntl.LOCK_EX)
        else:
            print("held", flush=True)
        print(f"{name}: installing (simulated)", file=sys.stderr, flush=True)
        sys.stdin.buffer.read()
    return 0


def wait(file: str, seconds: float) -> int:
    """Wait as apt does with DPkg::Lock::Timeout."""
    if not os.access(file, os.W_OK):
        return 0  # without the package manager's folder there is no lock
    deadline = time.monotonic() + seconds
    with Path(file).open("a") as lock:
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return 0
            except OSError:
                if time.monotonic() >= deadline:
                    print(f"E: Could not get lock {file}. It is held by another process.",
                          file=sys.stderr)  # fmt: skip
                    return 1
                time.sleep(0.2)


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        sys.exit(hold(sys.argv[2], sys.argv[3], sys.argv[4]))
    sys.exit(wait(sys.argv[2], float(sys.argv[3])))
