"""What every transfer needs."""

from __future__ import annotations

import subprocess


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Leave no ssh or rsync behind, however the transfer ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                pass
