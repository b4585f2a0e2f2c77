"""What every test needs, however the tests were started."""

from __future__ import annotations

import contextlib
import signal

# A shell starts what it puts in the background with Ctrl-C ignored, and every program that the
# tests start would inherit that: those that are ended with SIGINT would then go on for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy computer is slow to make examples and to try them: that is no fault of what is tested.
with contextlib.suppress(ImportError):  # the workload's tests do without hypothesis
    from hypothesis import HealthCheck, settings

    settings.register_profile("vmctl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("vmctl")
