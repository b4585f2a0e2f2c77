"""Creating, starting, moving and stopping a VM."""
