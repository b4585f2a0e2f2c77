"""PID 1 of a machine: boots it, starts an sshd per connection, and shuts it down.

In a sandbox this is the root of a separate user, pid and network namespace. Without namespaces
(`plain`) it is an ordinary process that adopts every descendant, so that none outlives it."""

from __future__ import annotations

import os
import pwd
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from . import accounts, overlay, slurm, system
from .channel import Channel, NoReply
from .driver import Driver
from .hostkeys import HostKeys
from .metadata import Watch, serve
from .processes import Processes, stop_all
from .scripts import Scripts

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from typing import Any

LOGIN_UID = 1000
OWN_POWER_OFF_S = 10.0
ONLINE_S = 10.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class GuestInit:
    """One boot, from the host's order to the end of the process."""

    def __init__(
        self,
        control: socket.socket,
        accepted: socket.socket,
        plain: bool,
        listening: socket.socket | None = None,
        neighbours: socket.socket | None = None,
    ) -> None:
        self.plain = plain
        self.accepted = accepted
        self.listening = listening  # for the metadata server
        self.neighbours = neighbours  # port 22 of the internal network
        self.processes = Processes()
        self.watch = Watch()
        self.orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.channel = Channel(control, self._order, self._host_gone)
        self.going_down = threading.Lock()
        self.shut = threading.Event()  # no new connections
        self.spec: dict[str, Any] = {}
        self.tree: dict[str, Any] = {}
        self.root = Path("/")
        self.keys_changed = threading.Event()
        self.online = threading.Event()

    # -- up ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Does everything up to an answering sshd; the rest continues in threads."""
        order = self.orders.get()
        self.spec, self.tree = order["spec"], order["metadata"]
        self.watch.take_time(self.tree)
        self.root = Path(self.spec["root"])
        self.seed = Path(self.spec["seed"])
        say(f"vmctl emulator: booting {self.spec['name']}")
        for folder, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("var/log", 0o755),
                             ("var/lib", 0o755), ("var/cache", 0o755), ("home", 0o755),
                             ("root", 0o755), ("srv", 0o755), ("mnt", 0o755), ("media", 0o755),
                             ("opt", 0o755)):  # fmt: skip
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            (self.root / folder).chmod(mode)
        system.install_etc(self.seed / "etc", self.root / "etc")
        system.write_own_files(self.root, self.spec, self.spec["dns"])
        local = Path(self.spec["local"])
        system.install_certificates(self.seed / "certificates", local / "share/ca-certificates")
        self.driver = Driver(
            self.processes, say, self.seed / "guest/shims", local, self.root, self.spec
        )
        if not self.plain:
            self._namespace()
        self._python()
        self.driver.begin()
        uid = os.getuid() if self.plain else LOGIN_UID
        owned = self.spec["owns_names"]
        self.accounts = accounts.Accounts(self.root, uid, owned)
        self.agent_lives = self.spec["trouble"].get("agent") != "dead"
        if self.agent_lives:
            self.accounts.apply(
                accounts.select_valid(accounts.read_key_lines(self.tree), time.time())
            )
        self.host_keys = HostKeys(
            self.root / "etc/ssh", self.spec["instance_id"], f"root@{self.spec['name']}",
            self.processes,
        )  # fmt: skip
        self.host_keys.make_first()
        self._configure_sshd(local)
        if self.spec["slurm"]:
            slurm.start(self.processes, self.spec["name"], uid, say)
        threading.Thread(target=self._accept_connections, name="sshd", daemon=True).start()
        if self.neighbours is not None:
            threading.Thread(target=self._accept_neighbours, name="inside", daemon=True).start()
        self.channel.notify("ready")
        say("vmctl emulator: sshd answers")
        if not self.agent_lives:
            say("systemd: google-guest-agent.service: Failed with result 'exit-code'.")
        agent = (self._publish, self._keep_keys) if self.agent_lives else ()
        for task in (*agent, self._startup):
            threading.Thread(target=task, name=task.__name__, daemon=True).start()

    def _namespace(self) -> None:
        """Makes the login users' own user namespace, where they are uid 1000, and the network."""
        Path("/run/lock").mkdir(exist_ok=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        read, write = os.pipe()
        holder = self.processes.spawn(
            ["unshare", "--user", f"--map-user={LOGIN_UID}", f"--map-group={LOGIN_UID}",
             "/bin/sh", "-c", "echo; read end"],
            stdin=read, stdout=subprocess.PIPE, as_user=False,
        )  # fmt: skip
        os.close(read)
        assert holder.process.stdout is not None
        with holder.process.stdout as stream:
            if not stream.readline():
                raise OSError("a nested user namespace was refused")
        self.user_namespace = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)
        os.close(write)
        # By a path through PID 1, so that started processes inherit no descriptor.
        entry = f"--user=/proc/1/fd/{self.user_namespace}"
        self.processes.enter = ["nsenter", entry, "--preserve-credentials", "--"]
        assert self.listening is not None
        serve(self.listening, self._fetch, self._put, self.watch)

    def _python(self) -> None:
        if not self.spec["image"]:
            return
        image, target = Path(self.spec["image"]), Path(self.spec["python"])
        if not self.plain and not self.spec["thin"]:
            refused = overlay.mount_overlay(self.processes, image, Path(self.spec["layer"]), target)
            if refused is None:
                return
            say(f"vmctl emulator: no overlay, a thin layer instead: {refused}")
        overlay.thin_environment(image, target)

    def _configure_sshd(self, local: Path) -> None:
        extra = ["SetEnv LANG=C.UTF-8"]
        if self.plain:
            environment = {
                "LANG": "C.UTF-8",
                "PATH": f"{local}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "TMPDIR": str(self.root / "tmp"),
                "TMUX_TMPDIR": str(self.root / "tmp"),
                "VMCTL_INIT": str(os.getpid()),
                "VMCTL_PYTHON": self.spec["python"] or "",
            }
            if not self.spec["owns_names"]:
                home = self.root / "home" / pwd.getpwuid(os.getuid()).pw_name
                home.mkdir(parents=True, exist_ok=True)
                environment["HOME"] = str(home)
            session = self.seed / "guest/shims/plain_session.sh"
            extra = system.plain_session(self.root, environment, session)
        self.sshd_config = self.root / "etc/ssh/sshd_config"
        text = system.sshd_config(self.root, extra)
        accounts.replace(self.sshd_config, text, 0o644)
        self.sshd_log = self.root / "var/log/sshd.log"
        if self.sshd_log.exists() and self.sshd_log.stat().st_size > 1_000_000:
            self.sshd_log.unlink()

    def _startup(self) -> None:
        state = Path(self.spec["local"]) / "bin/startup.state"
        state.write_text("activating\n")
        self.online.wait(ONLINE_S)
        self._scripts().run("startup", self.tree)
        state.unlink(missing_ok=True)

    def _scripts(self) -> Scripts:
        local = self.spec["local"]
        env = {"PATH": f"{local}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
               "HOME": str(self.root / "root"), "VMCTL_INIT": str(os.getpid())}  # fmt: skip
        return Scripts(self.processes, say, f"{local}/bin/sudo", env, str(self.root))

    # -- running -------------------------------------------------------------------------------

    def _accept_connections(self) -> None:
        """Starts one `sshd -i` per accepted connection that the host passes in."""
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self.accepted, 1, 4)
            except OSError:
                return
            if not descriptors:
                return
            for descriptor in descriptors:
                with socket.socket(fileno=descriptor) as connection:
                    self._admit(connection)

    def _accept_neighbours(self) -> None:
        """The same for each connection that comes over the internal network."""
        assert self.neighbours is not None
        while True:
            with self.neighbours.accept()[0] as connection:
                self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin") or "/usr/sbin/sshd"
        argv = [sshd, "-i", "-f", str(self.sshd_config), "-E", str(self.sshd_log)]
        if self.shut.is_set():
            return
        try:
            self.processes.spawn(
                argv, stdin=connection.fileno(), stdout=connection.fileno(), cwd=str(self.root),
            )  # fmt: skip
        except OSError as error:
            say(f"sshd: cannot start: {error}")

    def _fetch(self) -> dict[str, Any]:
        tree = self.channel.call("metadata")
        if not isinstance(tree, dict):
            raise NoReply("the host has no metadata")
        self.watch.take_time(tree)
        return tree

    def _put(self, path: str, value: str) -> bool:
        return bool(self.channel.call("put_guest_attribute", path=path, value=value))

    def _publish(self) -> None:
        try:
            self.host_keys.make_rest_and_publish(self._put, say)
        except (OSError, NoReply) as error:
            say(f"google_guest_agent: host keys: {error}")

    def _keep_keys(self) -> None:
        """Rewrites keys when the metadata changes and when the next key expires."""
        while True:
            keys = accounts.select_valid(accounts.read_key_lines(self.tree), time.time())
            pause = None
            if keys.next_expiry is not None:
                # Short waits: the wall clock may jump while the computer is suspended.
                pause = min(max(keys.next_expiry - time.time(), 0) + 0.05, 60)
            if self.keys_changed.wait(pause):
                self.keys_changed.clear()
                try:
                    self.tree = self._fetch()
                except NoReply as error:
                    say(f"google_guest_agent: {error}")
                self.watch.changed()
            try:
                self.accounts.apply(
                    accounts.select_valid(accounts.read_key_lines(self.tree), time.time())
                )
            except OSError as error:
                say(f"google_guest_agent: cannot write accounts: {error}")

    # -- down ----------------------------------------------------------------------------------

    def _order(self, order: dict[str, Any]) -> None:
        if order["op"] == "boot":
            self.orders.put(order)
        elif order["op"] == "changed":
            self.keys_changed.set()
        elif order["op"] == "online":
            self.online.set()
        elif order["op"] == "arrive":
            self.driver.arrive()
        elif order["op"] == "unlock":
            self.driver.unlock()
        elif order["op"] == "names":
            accounts.replace(self.root / "etc/hosts", system.hosts(order["names"]), 0o644)
        elif order["op"] == "power":
            self.go_down("power", float(order["grace_s"]))

    def go_down(self, reason: str, grace_s: float = OWN_POWER_OFF_S) -> None:
        """Starts the one shutdown of this boot; later calls do nothing."""
        if self.going_down.acquire(blocking=False):
            threading.Thread(target=self._down, args=(reason, grace_s), name="down").start()

    def _down(self, reason: str, grace_s: float) -> None:
        say(f"vmctl emulator: going down ({reason})")
        deadline = time.monotonic() + grace_s
        try:
            self.channel.notify("exiting", reason=reason)
            self._scripts().run("shutdown", self.tree, timeout_s=max(grace_s - 2, grace_s / 2))
        except Exception as error:  # the machine must go down in any case
            say(f"vmctl emulator: {type(error).__name__}: {error}")
        self.shut.set()  # sshd ends before its sessions, as with any init
        stop_all(max(deadline - time.monotonic() - 0.5, 0))
        say("vmctl emulator: power down")
        os._exit(0)

    def _host_gone(self) -> None:
        """Ends the machine: its host has ended."""
        if self.plain:
            stop_all(0)
        os._exit(1)


def say(text: str) -> None:
    """Writes a line to the serial port."""
    stamp = time.strftime("%b %e %H:%M:%S", time.gmtime())
    try:
        os.write(1, f"{stamp} {os.uname().nodename} {text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def adopt_descendants() -> None:
    """Makes this process adopt orphans instead of the computer's init, and end with its parent."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def main(argv: list[str]) -> None:
    """argv: descriptors of the control socket and of the one that brings accepted connections, then
    `plain`, or `sandbox` and those of the metadata server's socket and of sshd's."""
    control = socket.socket(fileno=int(argv[0]))
    accepted = socket.socket(fileno=int(argv[1]))
    listening = [socket.socket(fileno=int(descriptor)) for descriptor in argv[3:]]
    for connection in (control, accepted, *listening):
        connection.set_inheritable(False)
    machine = GuestInit(control, accepted, argv[2] == "plain", *listening)
    os.umask(0o022)
    if machine.plain:
        adopt_descendants()
        signal.signal(signal.SIGTERM, lambda *_: machine._host_gone())
    else:
        signal.signal(signal.SIGTERM, lambda *_: machine.go_down("poweroff"))
    signal.signal(signal.SIGINT, lambda *_: machine.go_down("reboot"))
    signal.signal(signal.SIGPWR, lambda *_: machine.go_down("poweroff"))
    machine.channel.start()
    machine.channel.notify("alive")
    threading.Thread(target=start, args=(machine,), name="boot", daemon=True).start()
    machine.processes.reap_forever()


def start(machine: GuestInit) -> None:
    try:
        machine.boot()
    except Exception as error:
        say(f"vmctl emulator: boot failed: {type(error).__name__}: {error}")
        machine.channel.notify("failed", error=str(error))
        if machine.plain:
            stop_all(0)
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
