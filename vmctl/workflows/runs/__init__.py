"""Starting runs on the VM and following them."""
