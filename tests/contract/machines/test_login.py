"""A machine of one's own: who one is there, what is there, and what is not."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from pathlib import Path

from tests.contract.machines.host import Bench, descendants, needs_root, needs_sandbox
from tests.harness.eventually import eventually
from vmctl.emulator.machines import sandbox


@needs_sandbox
def test_login_user_is_the_one_named_in_the_metadata(shared: Bench) -> None:
    assert shared.host.mode == "sandbox"
    assert shared.ssh("1", "id -un; id -u; hostname; hostname -f; pwd").splitlines() == [
        "alice", "1000", "vm-1", "vm-1.zone.c.p.internal", "/home/alice",
    ]  # fmt: skip


@needs_sandbox
def test_nothing_of_the_computer_but_usr_is_there(shared: Bench) -> None:
    for hidden in (shared.key, Path(__file__), shared.home):
        assert hidden.exists()
        assert shared.try_ssh("1", f"test -e {hidden}").returncode == 1
    ours = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}
    own = {"dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp"}
    assert set(shared.ssh("1", "ls /").split()) <= ours | own | {"usr", "var"}
    assert shared.ssh("1", "ls /home /opt /srv /root").split() == [
        "/home:", "alice", "/opt:", "/root:", "/srv:",
    ]  # fmt: skip
    assert shared.try_ssh("1", "touch /usr/share/mine").returncode != 0
    shared.ssh("1", "touch /usr/local/share-of-mine")
    assert not Path("/usr/local/share-of-mine").exists()


@needs_sandbox
def test_only_its_own_processes_are_visible(shared: Bench) -> None:
    commands = shared.ssh("1", "ps -eo args").splitlines()
    assert "guest.init" in commands[1]
    assert not any("pytest" in command for command in commands)


@needs_sandbox
def test_root_of_a_machine_cannot_write_kernel_settings(shared: Bench) -> None:
    setting = Path("/proc/sys/kernel/core_pattern")
    before = setting.read_text()
    for attempt in (
        "echo mine > /proc/sys/kernel/core_pattern",
        "sudo sh -c 'echo mine > /proc/sys/kernel/core_pattern'",
        "sudo unshare -m sh -c 'mount -t proc proc /proc && echo x >/proc/sys/kernel/core_pattern'",
        "unshare -rmpf sh -c 'mount -t proc p /mnt && echo x >/mnt/sys/kernel/core_pattern'",
    ):
        assert shared.try_ssh("1", attempt).returncode != 0
    assert setting.read_text() == before


@needs_sandbox
@needs_root
def test_no_process_of_a_machine_is_root_on_the_computer(shared: Bench) -> None:
    pid = shared.ssh("1", "sudo sh -c 'sleep 60 >/dev/null 2>&1 & echo $!'")
    assert pid.isdigit()
    family: set[int] = set()

    def uids() -> set[str]:
        family.update(seen := descendants(os.getpid()))
        found: set[str] = set()
        for process in seen:
            with contextlib.suppress(OSError):  # one that has just ended
                status = Path(f"/proc/{process}/status").read_text()
                found.update(status.partition("\nUid:")[2].partition("\n")[0].split())
        return found

    # another test's helper of this same pytest may be root for a moment; a machine's is for good
    eventually(lambda: uids() == {str(sandbox.MACHINE_UID)})
    assert len(family) >= 4  # bwrap, the first process, sudo's sleep, slirp4netns or sshd


@needs_sandbox
def test_scp_sftp_and_rsync_carry_files(shared: Bench, tmp_path: Path) -> None:
    source = tmp_path / "a file"
    source.write_bytes(os.urandom(200_000))
    options, there = shared.options("1"), shared.address("1")
    shell = shlex.join(["ssh", *options])
    carriers = {
        "scp": ["scp", "-q", *options, str(source), f"{there}:by-scp"],
        "scp -O": ["scp", "-O", "-q", *options, str(source), f"{there}:by-scp-O"],
        "rsync": ["rsync", "-a", "-e", shell, str(source), f"{there}:by-rsync"],
    }
    for name, argv in carriers.items():
        subprocess.run(argv, check=True, timeout=60, capture_output=True)
        back = tmp_path / name.replace(" ", "")
        remote = "by-" + name.replace(" ", "")
        subprocess.run(
            ["sftp", "-q", *options, f"{there}:{remote}", str(back)],
            check=True, timeout=60, capture_output=True,
        )  # fmt: skip
        assert back.read_bytes() == source.read_bytes()


@needs_sandbox
def test_a_terminal_is_a_terminal(shared: Bench) -> None:
    done = shared.try_ssh("1", "test -t 0 && stty -a | head -1 && tty", "-tt")
    assert done.returncode == 0
    assert "/dev/pts/" in done.stdout


@needs_sandbox
def test_tmux_outlives_the_connection(shared: Bench) -> None:
    shared.ssh("1", "tmux -L t new-session -d -s job 'sleep 1000'")
    assert shared.ssh("1", "tmux -L t list-sessions -F '#S'") == "job"
    attached = shared.try_ssh("1", "TERM=xterm timeout 2 tmux -L t attach -t job", "-tt")
    assert "no sessions" not in attached.stdout + attached.stderr
    assert shared.ssh("1", "tmux -L t list-sessions -F '#S'") == "job"


@needs_sandbox
def test_many_sessions_share_one_connection(shared: Bench) -> None:
    path = shared.key.parent / "mux"
    control = ["-o", f"ControlPath={path}"]
    argv = ["ssh", *shared.options("1"), *control, "-M", "-N", "-f", shared.address("1")]
    subprocess.run(argv, check=True, timeout=30, stderr=subprocess.DEVNULL)
    try:
        command = ["ssh", *shared.options("1"), *control, shared.address("1"), "cat"]
        running = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(24)
        ]
        outputs = [process.communicate(b"same", timeout=60)[0] for process in running]
        assert outputs == [b"same"] * 24
    finally:
        subprocess.run(
            ["ssh", *control, "-O", "exit", "x"], check=True, timeout=10, capture_output=True
        )


@needs_sandbox
def test_sudo_shows_root_and_files_stay_the_users(shared: Bench) -> None:
    assert shared.ssh("1", "sudo -n id -u") == "0"
    assert shared.ssh("1", "sudo -u alice id -un; sudo -H sh -c 'echo $HOME'").split() == [
        "alice", "/root",
    ]  # fmt: skip
    assert shared.ssh("1", "A=1 sudo -E B='two words' sh -c 'echo $A $B'") == "1 two words"
    assert shared.ssh("1", "sudo -nE env X=1 sh -c 'echo $X'; sudo -i pwd").split() == [
        "1",
        "/root",
    ]
    shared.ssh("1", "sudo tee /etc/by-root </dev/null && stat -c %U /etc/by-root | grep alice")
    assert shared.try_ssh("1", "sudo -n false").returncode == 1
    assert shared.try_ssh("1", "sudo -u nosuch true").returncode == 1


@needs_sandbox
def test_apt_get_tells_the_truth(shared: Bench) -> None:
    shared.ssh(
        "1", "sudo apt-get update && sudo -E apt-get -o DPkg::Lock::Timeout=60 -y install tar"
    )
    refused = shared.try_ssh("1", "sudo apt-get install -y tar no-such-package")
    assert refused.returncode == 100
    assert "emulator" in refused.stderr and "no-such-package" in refused.stderr
    assert " tar" not in refused.stderr


@needs_sandbox
def test_the_gpu_says_that_it_is_simulated(shared: Bench) -> None:
    query = "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader"
    assert shared.ssh("1", query).splitlines() == ["Tesla T4 (simulated), 580.00-simulated"] * 2
    assert "SIMULATED" in shared.ssh("1", "nvidia-smi")
    assert shared.try_ssh("1", "nvidia-smi --query-gpu=nonsense --format=csv").returncode == 2
