"""What tests share: programs, machines, clouds and links, each of them real.

How to run `vmctl` in a test:

- `laptop(...)` and `cloud(...)` run a command line to its end in a *forked* process: the same
  argv, environment, folder, standard streams, signals and exit code as the installed program's,
  without paying for the start of Python and its imports (`fork_server.py` says how). This is the
  way for all tests that ask what a command does.
- `laptop.start(...)` and `laptop(..., forked=False)` start the *installed program*, a process of
  its own from the first instruction on. This is the way where the process is the point: kills,
  signals, terminals, what is imported at start-up, packaging, several at once.

Emulators are forked likewise where a test needs one (`emulator.py`): a process and a session of
their own, which serve real HTTP. How `vmctl emulator start` starts one is for tests of just that.

Everything else stays as users have it: HTTP, sshd, tmux, rsync, the emulator and the browser.
Waiting for what sends no word: `eventually`. Nothing here counts polls or asserts a time.
"""
