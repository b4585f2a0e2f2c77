"""From a choice to a running VM: what may be taken, where it is to be had, and the wait for it."""
