"""Files up to the VM and down from it."""
