"""The lines that the user's ssh reads, and how they come and go."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.domain.errors import InvalidInput
from vmctl.domain.login.ssh_config import (
    Host,
    entry_file,
    hosts_file,
    include_line,
    names_for,
    with_include,
    without_include,
)
from vmctl.domain.login.ssh_target import Target
from vmctl.ssh.identity import user_ssh_config

TARGET = Target("42", "203.0.113.7", 2222, "ada", "/home/ada/a key", "/home/ada/100%/pins")
HOST = Host("train.vmctl", "ada", "train", False, "my-project", "", TARGET)


@given(st.none() | st.binary())
def test_what_was_added_is_taken_away_byte_for_byte(before: bytes | None) -> None:
    after = with_include(before, "/data/entry")
    assert without_include(after) == before
    assert after.startswith(b"# >>> vmctl")
    assert after.endswith(before or b"\n")
    assert with_include(after, "/data/entry") == after, "twice is once"


@given(st.binary(), st.binary(max_size=30))
def test_what_the_user_added_meanwhile_stays(before: bytes, above: bytes) -> None:
    assert without_include(above + with_include(before, "/data/entry") + b"x") == (
        above + before + b"x"
    )


def test_another_folder_replaces_the_include() -> None:
    first = with_include(b"Host *\n", "/one/entry")
    again = with_include(first, "/two/entry")
    assert b"/one/" not in again
    assert without_include(again) == b"Host *\n"


@pytest.mark.parametrize("broken", [b"# <<< vmctl <<<\n", b'Include "/data/entry"\n'])
def test_a_block_changed_by_hand_is_left_to_its_author(broken: bytes) -> None:
    after = with_include(b"Host *\n", "/data/entry").replace(broken, b"")
    with pytest.raises(InvalidInput, match="changed by hand"):
        without_include(after)


def test_a_file_that_was_ours_is_kept_when_something_else_came_into_it() -> None:
    assert without_include(with_include(None, "/e") + b"Host x\n") == b"Host x\n"


@pytest.mark.parametrize("path", ["/a*b", "/a?b", "/a[b", '/a"b', "/a%b", "/a\nb", "/a$b"])
def test_a_path_that_ssh_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="cannot include"):
        include_line(path)


def test_names_are_short_while_they_are_free() -> None:
    assert names_for(HOST) == (
        "train.vmctl", "train.ada.vmctl", "train.ada.my-project.vmctl"
    )  # fmt: skip
    local = Host("", "ada", "train", True, "vmctl-local")
    assert names_for(local)[0] == "train.local.vmctl"


def asked(folder: Path, name: str, hook: tuple[str, ...], *, local: bool = False) -> dict[str, str]:
    """What the real ssh makes of our files."""
    hosts, entry, main = folder / "hosts", folder / "entry", folder / "main"
    hosts.write_text(hosts_file([HOST]))
    entry.write_text(entry_file([HOST], {HOST.name: hook}, str(hosts)))
    main.write_bytes(with_include(b"Host *\n    User somebody\n    Port 7\n", str(entry)))
    done = subprocess.run(
        ["ssh", "-G", "-F", str(main), name], capture_output=True, text=True, check=True
    )
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


def test_ssh_reads_address_key_and_pins(tmp_path: Path) -> None:
    read = asked(tmp_path, "train.vmctl", ("true",))
    assert (read["hostname"], read["port"], read["user"]) == ("203.0.113.7", "2222", "ada")
    assert read["hostkeyalias"] == "compute.42"
    assert read["stricthostkeychecking"] in ("yes", "true")
    assert read["userknownhostsfile"] == "/home/ada/100%/pins"
    assert read["identityfile"] == "/home/ada/a key"


def test_other_hosts_are_as_they_were_and_run_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    read = asked(tmp_path, "example.org", ("touch", str(ran)))
    assert (read["hostname"], read["port"], read["user"]) == ("example.org", "7", "somebody")
    assert "hostkeyalias" not in read
    assert not ran.exists()


@given(st.text(st.characters(exclude_characters='"\n\0', exclude_categories=["Cs"]), min_size=1))
def test_the_hook_gets_its_words_as_they_are(word: str) -> None:
    entry = entry_file([HOST], {HOST.name: ("echo", word)}, "/hosts")
    (line,) = [line for line in entry.split("\n") if line.startswith("Match originalhost")]
    given_to_shell = line.partition('exec "')[2].removesuffix('"').replace("%%", "%")
    assert shlex.split(given_to_shell) == ["echo", word]


def test_ssh_runs_the_hook_before_it_reads_the_addresses(tmp_path: Path) -> None:
    moved = hosts_file([HOST]).replace("203.0.113.7", "203.0.113.99")
    new = tmp_path / "new $(x) 100%;'s"
    new.write_text(moved)
    read = asked(tmp_path, "train.vmctl", ("cp", str(new), str(tmp_path / "hosts")))
    assert read["hostname"] == "203.0.113.99"


def test_a_hosts_lines_stand_whatever_the_user_wants_for_all_hosts(tmp_path: Path) -> None:
    file = tmp_path / "config"
    for proxy, expected in (("", None), ("relay -v", "relay -v")):
        others = "Host *\n    ProxyJump bastion\n    PubkeyAuthentication no\n"
        others += "    PreferredAuthentications password\n    ProxyUseFdpass yes\n"
        others += "    AddressFamily inet6\n    StrictHostKeyChecking no\n    User bob\n"
        host = replace(HOST, target=replace(TARGET, proxy=proxy))
        file.write_text(f"{hosts_file([host])}\n{others}", encoding="utf-8")
        done = subprocess.run(
            ["ssh", "-G", "-F", str(file), HOST.name], capture_output=True, text=True, check=True
        )
        found = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
        assert found.get("proxycommand") == expected
        assert found.get("proxyjump") in (None, "none")
        assert found["pubkeyauthentication"] in ("yes", "true")
        assert found["preferredauthentications"] == "publickey"
        assert (found["proxyusefdpass"], found["addressfamily"]) == ("no", "any")
        assert (found["user"], found["stricthostkeychecking"]) == ("ada", "true")


def test_a_configuration_that_cannot_be_changed_gets_the_line_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMCTL_HOME", str(tmp_path / "home"))
    file = tmp_path / "config"
    file.symlink_to("/proc/version")
    with pytest.raises(InvalidInput, match="cannot be changed") as refusal:
        user_ssh_config.add_include(file)
    assert str(file) in refusal.value.message
    line = include_line(str(user_ssh_config.entry_path()))
    assert refusal.value.hint.endswith(line)
    by_hand = tmp_path / "by-hand"
    by_hand.write_text(f"  {line}\nHost *\n", encoding="utf-8")
    assert not user_ssh_config.add_include(by_hand), "it is there already"


def test_a_host_is_on_record_once_ssh_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends in the middle of the writes leaves nothing that looks finished."""
    monkeypatch.setenv("VMCTL_HOME", str(tmp_path))
    with user_ssh_config.edit_hosts() as known:
        known.append(replace(HOST, target=None))
    folder = user_ssh_config.entry_path().parent
    written = user_ssh_config._replace

    def end(file: Path, content: bytes) -> None:
        if TARGET.address.encode() in content and file.name == "hosts.json":
            (folder / f".{file.name}.1.2").write_bytes(content)
            raise SystemExit
        written(file, content)

    monkeypatch.setattr(user_ssh_config, "_replace", end)
    with pytest.raises(SystemExit):
        user_ssh_config.update_host(HOST.identity, TARGET)
    assert user_ssh_config.hosts()[0].target is None, "the next one writes it again"
    monkeypatch.undo()
    monkeypatch.setenv("VMCTL_HOME", str(tmp_path))
    user_ssh_config.update_host(HOST.identity, TARGET)
    assert TARGET.address in (folder / "hosts").read_text(encoding="utf-8")
    user_ssh_config.remove_files()
    assert not folder.exists()
