"""Local ports that lead to the VM and survive a reconnect."""
