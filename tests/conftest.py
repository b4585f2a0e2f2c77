"""What every test needs, however the tests were started."""

from __future__ import annotations

import signal

# A shell starts what it puts in the background with Ctrl-C ignored, and every program that the
# tests start would inherit that: those that are ended with SIGINT would then go on for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
