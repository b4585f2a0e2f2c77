"""The clock that workflows take as an argument."""

from vmctl.clock import Clock

__all__ = ["Clock"]
