"""Clients of Compute Engine that others wrote, driven against the embedded one.

Each judges every reply on its own: types, enumerations, scopes of operations, paging, errors. They
live in an environment of their own, made by scripts/lib.sh, which pins their versions:

    scripts/test --clients                                   all of them
    .venv-clients/bin/python -m pytest tests/clients/test_libcloud.py

One emulator a file, reached as users reach it: by what `vmctl emulator env` prints, over HTTPS,
with its certificate and its secret. Each test is a call, or the few that belong together, and is
counted as such. A file's tests share what its module fixtures made; a machine is booted for those
calls that need one.
"""
