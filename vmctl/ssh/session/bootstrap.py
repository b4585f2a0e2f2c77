"""A conversation over fabric: waiting for SSH while a VM boots, and setting it up."""

from __future__ import annotations

import base64
import contextlib
import socket
import time
from types import TracebackType
from typing import Any

from vmctl.clock import Clock
from vmctl.domain.command import Command
from vmctl.domain.errors import (
    AccessDenied,
    HostKeyChanged,
    IntegrityError,
    TimedOut,
    Unreachable,
)
from vmctl.domain.limits import REPLY_BYTES
from vmctl.domain.login.ssh_target import Target
from vmctl.ssh.identity.known_hosts import pinned
from vmctl.ssh.remote_output import TAIL_BYTES, too_much
from vmctl.ssh.session.openssh import COMMAND_S, Result

FIRST_GAP_S = 0.1
GAP_GROWTH = 1.3
LONGEST_GAP_S = 0.5
TRY_S = 5.0


class Connection:
    """A VM on the other side of one fabric connection; its host key must be pinned."""

    def __init__(self, target: Target) -> None:
        from fabric import Config
        from fabric import Connection as Fabric
        from paramiko import RejectPolicy, SSHConfig

        self.target = target
        # an empty ssh_config and lazy: no file of the user's is read
        config = Config(ssh_config=SSHConfig(), lazy=True)
        self._fabric: Any = Fabric(
            target.address,
            user=target.user,
            port=target.port,
            config=config,
            connect_timeout=target.connect_timeout_s,
            gateway=target.proxy or None,
            forward_agent=False,
            connect_kwargs={
                "key_filename": target.key_file,
                "look_for_keys": False,
                "allow_agent": False,
                "banner_timeout": target.connect_timeout_s,
                "auth_timeout": target.connect_timeout_s,
            },
        )
        self._fabric.client.set_missing_host_key_policy(RejectPolicy())
        keys = self._fabric.client.get_host_keys()
        shown = target.address if target.port == 22 else f"[{target.address}]:{target.port}"
        for line in pinned(target.instance_id):
            kind, value = line.split()
            key = _public_key(kind, value)
            if key is not None:
                keys.add(shown, kind, key)

    def open(self) -> None:
        """Connect once; raises Unreachable, AccessDenied or HostKeyChanged."""
        from paramiko.ssh_exception import (
            AuthenticationException,
            BadHostKeyException,
            NoValidConnectionsError,
            SSHException,
        )

        try:
            self._fabric.open()
        except BadHostKeyException as error:
            raise _changed(self.target) from error
        except AuthenticationException as error:
            raise AccessDenied(
                f"The VM does not accept vmctl's key for the user {self.target.user}.",
                hint="Renew it with: vmctl up",
            ) from error
        except SSHException as error:
            if "not found in known_hosts" in str(error):
                raise _changed(self.target) from error
            raise self._unreachable(error) from error
        except (NoValidConnectionsError, OSError, EOFError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"The VM does not answer at {self.target.address}:{self.target.port} ({error}).",
            hint="See whether it runs: vmctl status",
        )

    def run(
        self,
        command: str | Command,
        *,
        input: bytes | None = None,
        timeout_s: float = COMMAND_S,
    ) -> Result:
        """Run one command on the VM and wait; its exit code is data."""
        from paramiko.ssh_exception import SSHException

        channel = self.begin(command)
        try:
            channel.settimeout(timeout_s)
            if input:
                channel.sendall(input)
            channel.shutdown_write()
            out, err = _drain(channel, time.monotonic() + timeout_s)
            if not channel.status_event.wait(timeout_s):
                raise TimeoutError
            code = channel.recv_exit_status()
            channel.close()
        except IntegrityError:
            self.close()
            raise
        except TimeoutError as error:
            self.close()  # the command may go on there: what it says later is not for us
            raise TimedOut(f"A command on the VM took longer than {timeout_s:g} s.") from error
        except (SSHException, OSError, EOFError) as error:
            raise self._unreachable(error) from error
        return Result(code, out, err)

    def begin(self, command: str | Command) -> Any:
        """Start one command on the VM; the channel that carries it, beside others."""
        from paramiko.ssh_exception import SSHException

        self.open()
        transport = self._fabric.client.get_transport()
        if transport is None:
            raise self._unreachable(EOFError("closed"))
        try:
            channel = transport.open_session(timeout=TRY_S)
            channel.exec_command(str(command))
        except (SSHException, OSError, EOFError) as error:
            raise self._unreachable(error) from error
        return channel

    def close(self) -> None:
        """End the conversation."""
        self._fabric.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def wait_for_ssh(target: Target, deadline: float, clock: Clock) -> Connection:
    """The conversation with a VM as soon as its sshd lets us in; `deadline` on clock.monotonic().

    No answer and a key not accepted yet are tried again, quickly at first; another host key than
    the pinned one raises HostKeyChanged at once. Raises TimedOut with the last reason.
    """
    connection = Connection(target)  # the imports happen while the VM boots
    gap = FIRST_GAP_S
    while True:
        trouble: Unreachable | AccessDenied | None = None
        if _knock(target):
            try:
                connection.open()
                return connection
            except HostKeyChanged:
                connection.close()
                raise
            except (Unreachable, AccessDenied) as error:
                connection.close()
                connection = Connection(target)
                trouble = error
        if clock.monotonic() > deadline:
            connection.close()
            reason = trouble.message if trouble else f"no answer at {target.address}:{target.port}"
            raise TimedOut(
                f"The VM runs but SSH does not let vmctl in: {reason}",
                hint="Look again: vmctl status; then: vmctl up",
            )
        clock.sleep(gap)
        gap = min(gap * GAP_GROWTH, LONGEST_GAP_S)


def _knock(target: Target) -> bool:
    """Whether something listens; cheaper than a handshake that cannot succeed."""
    try:
        with socket.create_connection((target.address, target.port), timeout=1.0):
            return True
    except OSError:
        return False


def _drain(channel: Any, deadline: float) -> tuple[bytes, bytes]:
    """Read both streams to their ends; reading one after the other could block for ever."""
    import threading

    out, tail = bytearray(), [b""]

    def read_errors() -> None:
        # a limit that runs out here runs out below, too, where it is told
        with contextlib.suppress(OSError):
            while data := channel.recv_stderr(1 << 16):
                tail[0] = (tail[0] + data)[-TAIL_BYTES:]

    reader = threading.Thread(target=read_errors, daemon=True)
    reader.start()
    while data := channel.recv(1 << 16):
        out += data
        if len(out) > REPLY_BYTES:
            raise too_much(REPLY_BYTES)
        if time.monotonic() > deadline:
            raise TimeoutError
    reader.join(max(0.1, deadline - time.monotonic()))
    return bytes(out), tail[0]


def _changed(target: Target) -> HostKeyChanged:
    return HostKeyChanged(
        f"The machine at {target.address} does not show the host key pinned for this VM.",
        hint="Somebody else answers at its address; look with: vmctl status",
    )


def _public_key(kind: str, value: str) -> Any:
    from paramiko import ECDSAKey, Ed25519Key, RSAKey

    data = base64.b64decode(value)
    if kind == "ssh-ed25519":
        return Ed25519Key(data=data)
    if kind == "ssh-rsa":
        return RSAKey(data=data)
    return ECDSAKey(data=data) if kind.startswith("ecdsa-") else None
