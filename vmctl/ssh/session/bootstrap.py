"""A connection over fabric: waiting for SSH while a VM boots, and setting it up."""

from __future__ import annotations

import base64
import contextlib
import time
from types import TracebackType
from typing import Any

from vmctl.clock import Clock
from vmctl.domain.command import Command, for_any_shell
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
from vmctl.ssh.remote_output import TAIL_BYTES, after_mark, too_much, without_noise
from vmctl.ssh.session.port_probe import PortProbe
from vmctl.ssh.session.remote import COMMAND_S, Result

FIRST_GAP_S = 0.1
GAP_GROWTH = 1.3
LONGEST_GAP_S = 0.5
TRY_S = 5.0


class FabricConnection:
    """A Remote over one connection of fabric's; the VM's host key must be pinned.

    Fabric connects, through a proxy where there is one; commands go over paramiko's channels,
    because fabric's own `run` sends input character by character and limits no output.
    """

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

    def verify(self) -> None:
        """Connect if need be; raises Unreachable, AccessDenied or HostKeyChanged."""
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

        channel = self._start(command)
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
            self.release()
            raise
        except TimeoutError as error:
            self.release()  # the command may go on there: what it says later is not for us
            raise TimedOut(f"A command on the VM took longer than {timeout_s:g} s.") from error
        except (SSHException, OSError, EOFError) as error:
            raise self._unreachable(error) from error
        return Result(code, without_noise(out), err)

    def stream(self, command: str | Command) -> _ChannelStream:
        """Start one command on the VM, while others may run, and read what it writes."""
        return _ChannelStream(self._start(command))

    def _start(self, command: str | Command) -> Any:
        from paramiko.ssh_exception import SSHException

        self.verify()
        transport = self._fabric.client.get_transport()
        if transport is None:
            raise self._unreachable(EOFError("closed"))
        try:
            channel = transport.open_session(timeout=TRY_S)
            channel.exec_command(for_any_shell(after_mark(str(command))))
        except (SSHException, OSError, EOFError) as error:
            raise self._unreachable(error) from error
        return channel

    def release(self) -> None:
        """End the connection."""
        self._fabric.close()

    def __enter__(self) -> FabricConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class _ChannelStream:
    """A command on a channel, as a RemoteStream."""

    def __init__(self, channel: Any) -> None:
        self.stdout = channel.makefile("rb")
        self._channel = channel

    def outcome(self) -> tuple[bytes, int]:
        tail: bytes = self._channel.makefile_stderr("rb").read(TAIL_BYTES)
        return tail, self._channel.recv_exit_status()

    def close(self) -> None:
        self._channel.close()


def wait_for_ssh(target: Target, deadline: float, clock: Clock) -> FabricConnection:
    """The connection to a VM as soon as its sshd lets us in; `deadline` on clock.monotonic().

    No answer and a key not accepted yet are tried again, quickly at first; another host key than
    the pinned one raises HostKeyChanged at once. Raises TimedOut with the last reason.
    """
    connection = FabricConnection(target)  # the imports happen while the VM boots
    probe, gap = PortProbe(target), FIRST_GAP_S
    try:
        while True:
            reason = f"no answer at {target.address}:{target.port}"
            if probe.opens(gap, clock):
                try:
                    connection.verify()
                    return connection
                except HostKeyChanged:
                    raise
                except (Unreachable, AccessDenied) as error:
                    reason = error.message
                    connection.release()
                    connection = FabricConnection(target)
                    clock.sleep(gap)
            if clock.monotonic() > deadline:
                raise TimedOut(
                    f"The VM is running, but SSH refuses vmctl: {reason}",
                    hint="Check again: vmctl status; then: vmctl up",
                )
            gap = min(gap * GAP_GROWTH, LONGEST_GAP_S)
    except BaseException:
        connection.release()
        raise
    finally:
        probe.close()


def _drain(channel: Any, deadline: float) -> tuple[bytes, bytes]:
    """Read both streams to their ends; reading one after the other could block for ever."""
    import threading

    out, tail = bytearray(), [b""]

    def read_errors() -> None:
        # a timeout here is one below, too, where it is raised
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
        hint="Another machine answers at its address; check: vmctl status",
    )


def _public_key(kind: str, value: str) -> Any:
    from paramiko import ECDSAKey, Ed25519Key, RSAKey

    data = base64.b64decode(value)
    if kind == "ssh-ed25519":
        return Ed25519Key(data=data)
    if kind == "ssh-rsa":
        return RSAKey(data=data)
    return ECDSAKey(data=data) if kind.startswith("ecdsa-") else None
