"""One module per panel of `vmctl --help`."""
