"""Getting a session to the VM, and keeping it when the address or the network changes."""
