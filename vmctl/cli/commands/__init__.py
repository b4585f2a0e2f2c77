"""One module per panel of `vmctl --help`."""

# In the order of `vmctl --help`: each command and its module in cli/commands/.
COMMANDS = {
    **dict.fromkeys(("init", "doctor"), "setup"),
    **dict.fromkeys(("up", "down", "status", "ls", "adopt", "keep"), "machine"),
    **dict.fromkeys(("cost", "gpus", "gc"), "costs"),
    **dict.fromkeys(("push", "fetch", "pull", "scp"), "files"),
    **dict.fromkeys(("run", "logs", "ps", "attach", "cancel"), "jobs"),
    **dict.fromkeys(("tunnel", "tunnels", "ssh", "exec", "login", "ssh-config"), "access"),
    "emulator": "emulator",
    "selftest": "selftest",
    "schema": "schema",
}
