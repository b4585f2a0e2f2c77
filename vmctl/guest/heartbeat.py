"""A sign of life while a helper works: an empty line now and then, between two records.

By the alarm clock, not by a thread: nobody waits for an import, and it comes between two steps of
the program. The other side gives up one that is silent.
"""

from __future__ import annotations

import atexit
import os
import signal

from .protocol import BEAT_S

_may = [True]


def begin() -> None:
    """From now on; until the program ends."""
    # a beat that fell into the interpreter's end, when its handler is gone, would kill it
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, _beat)
    signal.setitimer(signal.ITIMER_REAL, BEAT_S, BEAT_S)


def hush() -> None:
    """Pause: what is being written must arrive in one piece."""
    _may[0] = False


def resume() -> None:
    """Go on."""
    _may[0] = True


def _beat(number: int, frame: object) -> None:
    if _may[0]:
        try:
            os.write(1, b"\n")
        except OSError:
            pass  # nobody listens any more: the next word will find out
