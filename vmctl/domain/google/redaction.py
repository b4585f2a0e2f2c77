"""What may be shown to others of a conversation with Google: everything but who had it.

Gone are the project, its number, e-mail addresses, names of users, public IP addresses, SSH keys
and tokens; in their places stand words of the same form, so that the rest can be replayed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

PROJECT = "a-project"
OWNER = "owner"
LOGIN = "someone"
EMAIL = "someone@example.com"
ADDRESS = "192.0.2.1"  # of the block that is for documentation
KEY = "AAAAKEY"
NUMBER = "100000000000"
ANOTHERS = "https://www.googleapis.com/compute/v1/projects/a-project/another"

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_KEY = re.compile(r"AAAA[0-9A-Za-z+/]{16,}={0,3}")
_TOKEN = re.compile(r"\bya29\.[\w.-]+|\bBearer\s+[\w.~+/=-]+")
_NUMBERED = re.compile(r"\b((?:projects?|organizations|folders)(?:/|[ =]#?|%2F))\d{5,}\b")
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w.-])")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{0,4}(?![\w:])")
_NOBODYS = re.compile(r"0\.|10\.|127\.|169\.254\.|192\.168\.|192\.0\.2\.|172\.(1[6-9]|2\d|3[01])\.")
_DROPPED = {"contents"}  # of a serial port: a whole boot's log, with who knows what in it
_NOT_KEPT = "(not kept)"
# of metadata only these values are kept, and a script of the self-test's own
_SWITCHES = {
    "block-project-ssh-keys",
    "enable-guest-attributes",
    "enable-oslogin",
    "install-nvidia-driver",
    "serial-port-enable",
    "vmctl-ssh-port",
}
_OWN_SCRIPT = "vmctl-selftest"
_KEY_OWNER = re.compile(r"(?m)^[^\s:]+(?=:)")
_USER_NAME = re.compile(r'("userName": ?)"[^"]*"')
# what follows a key is its owner's: a name, often with a computer's
_COMMENT = re.compile(r"(?m)^([^\s:]+:\S+\s+AAAA\S+)[ \t]+(?!google-ssh)\S.*$")


@dataclass(frozen=True, slots=True)
class Redaction:
    """Takes one user's traces out of texts and JSON values."""

    project: str
    owner: str = ""
    login: str = ""
    own: str = ""  # what is in the name of everything that may be named
    words: Mapping[str, str] = field(default_factory=dict)  # further ones, with what stands there

    def text(self, text: str) -> str:
        """The text with nobody in it."""
        # the longest first: one may be part of another
        for word, instead in sorted(self._literals().items(), key=lambda item: -len(item[0])):
            text = re.sub(rf"(?<![0-9A-Za-z]){re.escape(word)}(?![0-9A-Za-z])", instead, text)
        text = _KEY.sub(KEY, text)
        text = _TOKEN.sub("TOKEN", text)
        text = _EMAIL.sub(EMAIL, text)
        text = _NUMBERED.sub(rf"\g<1>{NUMBER}", text)
        text = _IPV4.sub(lambda m: m[0] if _NOBODYS.match(m[0]) else ADDRESS, text)
        return _IPV6.sub("2001:db8::1", text)

    def value(self, value: object) -> object:
        """A JSON value with nobody in it, of the same shape."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, Mapping):
            hidden: dict[str, object] = {name: _NOT_KEPT for name in _DROPPED if name in value}
            if value.keys() == {"key", "value"}:
                hidden["value"] = self._metadata(str(value["key"]), str(value["value"]))
            if value.get("kind") == "compute#operation" and not self._is_own(value):
                hidden["targetLink"] = ANOTHERS
            if value.get("kind") == "compute#project" and "id" in value:
                hidden["id"] = NUMBER
            return {
                self.text(str(name)): hidden.get(name, self.value(item))
                for name, item in value.items()
            }
        return value

    def _is_own(self, operation: Mapping[object, object]) -> bool:
        """Whether an operation is about what may be named: a project has many people's."""
        return self.own in str(operation.get("targetLink", "")).rpartition("/")[2]

    def _metadata(self, key: str, value: str) -> str:
        """A metadata value: whatever a user, or another one, put there is nobody's business."""
        if key in ("ssh-keys", "sshKeys"):
            value = _COMMENT.sub(rf"\1 {EMAIL}", value)
            value = _USER_NAME.sub(rf'\g<1>"{LOGIN}"', _KEY_OWNER.sub(LOGIN, value))
            return self.text(value)
        if key in _SWITCHES or _OWN_SCRIPT in value:
            return self.text(value)
        return _NOT_KEPT

    def _literals(self) -> dict[str, str]:
        """Every word that names the user; what vmctl writes itself names nobody."""
        found = {self.login: LOGIN, self.owner: OWNER, self.project: PROJECT, **self.words}
        return {word: stand_in for word, stand_in in found.items() if word and word != "vmctl"}
