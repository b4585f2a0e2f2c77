"""What a terminal may be sent: text with its controls made visible, and a job's own bytes, cleaned.

vmctl's text (names, messages, settings, tables) shows every control character as an escape such as
\\x1b. What a job writes keeps its colours and what progress bars need, and nothing else that a
terminal would obey: a terminal also takes orders to fill the clipboard, to rename its window, or to
type an answer into the user's shell.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

JOINERS = "\u200c\u200d"  # in emoji and in several scripts they are part of the spelling
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, text direction, lone surrogates, line breaks
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

LINES = "\n\t"


def is_control(sign: str) -> bool:
    """Whether a terminal would obey a character, or show nothing for it."""
    import unicodedata  # a megabyte of tables

    return unicodedata.category(sign) in _HIDDEN and sign not in JOINERS


def visible(text: str, keep: str = LINES) -> str:
    """The text with its control characters as escapes, all but those to keep.

    A byte that was no UTF-8 (a lone surrogate, as the operating system's names have them) becomes
    an escape of that byte, so that the result can be encoded always.
    """
    if text.isprintable():  # nearly always, and ten times as fast
        return text
    return replace_controls(text, _escape, keep)


def replace_controls(text: str, escape: Callable[[str], str], keep: str = LINES) -> str:
    """The text with other words for its control characters, all but those to keep."""

    def other(found: re.Match[str]) -> str:
        sign = found.group()
        return escape(sign) if is_control(sign) and sign not in keep else sign

    return re.sub(r"[^\x20-\x7e\n]" if "\n" in keep else r"[^\x20-\x7e]", other, text)


def controls_in(text: str, keep: str = "") -> str:
    """The control characters of a text, each once, as escapes: "" where there are none."""
    if text.isprintable():
        return ""
    found = dict.fromkeys(sign for sign in text if is_control(sign) and sign not in keep)
    return " ".join(_escape(sign) for sign in found)


def _escape(sign: str) -> str:
    number = ord(sign)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x100:
        return _SHORT.get(sign, f"\\x{number:02x}")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


# -- what a job writes -----------------------------------------------------------------------

Sink = Callable[[bytes], None]


class Sinks(NamedTuple):
    """Who takes what another program writes; None: it inherits our own stream.

    With both, the two streams come mixed as they were written, to `stdout`.
    """

    stdout: Sink | None = None
    stderr: Sink | None = None


LONGEST = 128  # characters of one sequence; no honest one is half as long

# Every byte that is not plain text, before anything is decoded.
_DOUBTFUL_BYTES = bytes([*range(8), 11, 12, *range(14, 32), *range(0x7F, 0xA0)])
# And after it: a raw byte that is not UTF-8 has become one of U+DC80 to U+DCFF.
_DOUBTFUL = r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\udc80-\udc9f]"


class _Rules:
    """Compiled where a job writes something: most commands do without."""

    def __init__(self) -> None:
        # All that passes. CSI: a colour, the cursor moved, saved or hidden, a part of a line or of
        # the screen erased (never the scrollback); ESC 7 and 8 save and restore the cursor, too.
        self.allowed = re.compile(
            r"\x1b(?:\[(?:[0-9;:]{0,100}m|[0-9]{0,5}[ABCDEFGKXP@LMd]"
            r"|[0-9]{0,5}(?:;[0-9]{0,5})?[Hf]|[012]?J|[su]|\?25[hl])|[78])"
        )
        self.doubtful = re.compile(_DOUBTFUL)
        self.control = re.compile(
            _DOUBTFUL + r"(?:(?<=\x1b)(?:"
            r"\[[0-?]*[ -/]*[@-~]?"  # CSI
            r"|(?P<string>[]PX^_])[^\n\x07\x18\x1a\x1b\x9c\udc9c]*[\x07\x18\x1a\x9c\udc9c]?"
            r"|[ -/]+[0-~]?"  # character sets and the like
            r"|[0-~]))?"
        )
        self.string_end = re.compile(r"[\n\x07\x18\x1a\x1b\x9c\udc9c]")
        self.unfinished = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[ -/]*)")
        self.colour = re.compile(r"\x1b\[([0-9;:]*)m")


_rules = functools.cache(_Rules)


class JobOutput:
    """Cleans a stream of bytes on its way to a terminal, however it is cut into chunks.

    Strings for the terminal (OSC, DCS, APC, PM, SOS), queries, modes and all controls but those of
    a plain log are left out whole. A string that its program never ended costs the rest of its
    line. At most LONGEST characters are held back, and only while a sequence is unfinished.
    """

    def __init__(self) -> None:
        self._rules = _rules()
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._held = ""  # an unfinished sequence
        self._half = False  # an unfinished character is in the decoder
        self._in_string = False
        self._coloured = self._cursor_hidden = False

    def feed(self, data: bytes) -> bytes:
        """The next bytes, cleaned."""
        if not data:
            return b""
        if (
            not (self._held or self._half or self._in_string)
            and data[-1:] < b"\x80"
            and len(data.translate(None, _DOUBTFUL_BYTES)) == len(data)
        ):
            return data
        text = self._held + self._decode(data)
        self._half = data[-1:] >= b"\x80"
        if self._in_string or self._rules.doubtful.search(self._rules.allowed.sub("", text)):
            text = self._clean(text)
        else:
            self._held = ""
        if "\x1b" in text:
            self._remember(text)
        return text.encode("utf-8", "surrogateescape")

    def end(self) -> bytes:
        """What is held back of a character, and orders that undo a colour or a hidden cursor.

        An unfinished sequence is forgotten: nothing that is written next becomes a part of it.
        """
        text = self._decode(b"", True)
        self._half = False
        text = self._clean(text) if text else ""
        self._held, self._in_string = "", False
        if self._coloured:
            text += "\x1b[0m"
        if self._cursor_hidden:
            text += "\x1b[?25h"
        self._coloured = self._cursor_hidden = False
        return text.encode("utf-8", "surrogateescape")

    def _remember(self, text: str) -> None:
        """What these sequences leave switched on."""
        colours = self._rules.colour.findall(text)
        if colours:
            self._coloured = colours[-1].strip("0;:") != ""
        hidden, shown = text.rfind("\x1b[?25l"), text.rfind("\x1b[?25h")
        if hidden != shown:
            self._cursor_hidden = hidden > shown

    def _clean(self, text: str) -> str:
        self._held = ""
        start = 0
        if self._in_string:
            end = self._rules.string_end.search(text)
            if end is None:
                return ""
            self._in_string = False
            # an ESC or a line break is more than the end of a string
            start = end.start() + (text[end.start()] not in "\n\x1b")
        kept: list[str] = []
        for found in self._rules.control.finditer(text, start):
            kept.append(text[start : found.start()])
            start = found.end()
            sequence = found.group()
            if start == len(text) and self._is_unfinished(found):
                break
            if self._rules.allowed.fullmatch(sequence):
                kept.append(sequence)
        kept.append(text[start:])
        return "".join(kept)

    def _is_unfinished(self, found: re.Match[str]) -> bool:
        """Whether the sequence at the text's end may go on in the next chunk; it is kept so."""
        sequence = found.group()
        if found["string"]:
            self._in_string = not self._rules.string_end.search(sequence, 2)
            return True
        if not self._rules.unfinished.fullmatch(sequence):
            return False
        if len(sequence) > LONGEST:  # it will be left out: its kind is all that matters
            inside = sequence.lstrip("\x1b[")
            kind = "\x1b[" if sequence.startswith("\x1b[") else "\x1b"
            sequence = kind + (" " if inside[-1] < "0" else "<")
        self._held = sequence
        return True
