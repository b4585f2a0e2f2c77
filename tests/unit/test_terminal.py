"""What reaches a terminal: a job's bytes cleaned however they are cut, text with nothing hidden."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

import pytest

from vmctl.domain.terminal import JobOutput, controls_in, visible

# What a terminal could take for an order, and the pieces that such orders are made of.
PIECES: Sequence[bytes] = [
    *(bytes([number]) for number in (*range(33), 0x3A, 0x3B, 0x3F, 0x5B, 0x5C, 0x5D, 0x7F)),
    *(bytes([number]) for number in range(0x80, 0x100, 5)),
    *(bytes([number]) for number in (0x84, 0x85, 0x90, 0x98, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F)),
    *(b"\x1b" + after for after in (b"", b"[", b"]", b"P", b"X", b"^", b"_", b"\\", b"(", b"7")),
    *(b"0", b"1;31", b"52;c;", b"m", b"A", b"H", b"J", b"3J", b"n", b"c", b"h", b"l", b"?25"),
    *(b"?1049", b"text", "é█ж漢🙂".encode()),
    *("\u009b31m".encode(), "\u009d0;x\u009c".encode(), b"\xc2", b"\xe2\x96", b"9" * 200),
    *(b"\x1b[31m", b"\x1b[0m", b"\x1b[2K\r", b"\x1b[1A", b"\x1b]0;title\x07", b"\n", b"\r\n"),
    *(b"\x1b]52;c;eA==\x1b\\", b"\x1b[6n", b"\x1bP$qm\x1b\\", b"\x1b[?1004h", b"\x1b[>c"),
]


def cleaned(data: bytes, cuts: Sequence[int] = ()) -> bytes:
    """A whole stream through the cleaner, cut at these places."""
    output = JobOutput()
    ends = [*sorted(cuts), len(data)]
    parts = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return b"".join(map(output.feed, parts)) + output.end()


def orders(data: bytes) -> Iterator[str]:
    """What a terminal would do with these bytes but print them; a parser of its own.

    Errs towards seeing an order: a C1 control counts in a character, as one byte and as two.
    """
    text = data.decode("utf-8", "surrogateescape")
    while text:
        sign, text = text[0], text[1:]
        number = ord(sign)
        if 0x80 <= number <= 0x9F or 0xDC80 <= number <= 0xDC9F:
            yield f"C1 {number:x}"
        elif sign == "\x1b":
            found = re.match(r"\[[0-?]*[ -/]*[@-~]|[^\[]?", text)
            assert found is not None
            yield found.group() or "unfinished"
            text = text[found.end() :]
        elif (number < 0x20 and sign not in "\b\t\n\r") or number == 0x7F:
            yield f"C0 {number:x}"


HARMLESS = re.compile(
    r"\[[0-9;:]*m|\[\d*[ABCDEFGKXP@LMd]|\[\d*(;\d*)?[Hf]|\[[012]?J|\[[su]|\[\?25[hl]|[78]"
)


@pytest.mark.parametrize("seed", range(10))
def test_no_stream_however_cut_brings_a_terminal_another_order(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(600):
        data = b"".join(chance.choices(PIECES, k=chance.randrange(1, 40)))
        whole = cleaned(data)
        assert [one for one in orders(whole) if not HARMLESS.fullmatch(one)] == [], data
        for _ in range(3):
            cuts = [chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 9))]
            assert cleaned(data, cuts) == whole, (data, cuts)
        assert cleaned(data, range(len(data))) == whole, data


def test_plain_text_and_what_progress_bars_need_pass_unchanged() -> None:
    chance = random.Random(1)
    moves = ["2A", "K", "2K", "G", "10;20H", "J", "s", "u", "1P"]
    kept = [*"aé█ж漢🙂 ✓\u200d\t\b\r\n", *(f"\x1b[{move}" for move in moves), "\x1b7", "\x1b8"]
    kept += ["\x1b[31m", "\x1b[38;2;1;2;3m", "\x1b[38:5:9m"]
    for _ in range(2000):
        data = ("".join(chance.choices(kept, k=30)) + "\x1b[0m").encode()
        cuts = [chance.randrange(len(data) + 1) for _ in range(4)]
        assert cleaned(data, cuts) == data
    latin = "Übung mit Umlauten".encode("latin-1")
    assert cleaned(latin) == latin, "bytes that are no UTF-8 and no control"


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (b"a\x1b]0;owned\x07b", b"ab"),
        (b"a\x1b]52;c;cm0gLXJm\x1b\\b", b"ab"),
        (b"a\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\b", b"alinkb"),
        (b'a\x1bP$q"p\x1b\\b', b"ab"),
        (b"a\x1b_Gi=1\x1b\\b\x1b^x\x1b\\c\x1bXy\x1b\\d", b"abcd"),
        (b"a\x1b[6nb\x1b[cc\x1b[>0cd\x1b[18te\x1b[?6nf", b"abcdef"),
        (b"a\x1b[?1049hb\x1b[?2004hc\x1b[?1003hd\x1b[?1004he", b"abcde"),
        (b"a\x1bcb\x1b(0c\x1b#8d\x1b%Ge\x1b=f", b"abcdef"),
        (b"a\x1b[3Jb\x1b[1;5rc\x1b[!pd\x1b[999999999be\x1b[>4;2mf", b"abcdef"),
        (b"a\x9b6nb\x9d0;x\x07c", b"a6nb0;xc"),
        (b"a\xc2\x9b6nb\xc2\x9d0;x\x07c", b"a6nb0;xc"),
        (b"a\x00\x05\x07\x0e\x0f\x7fb", b"ab"),
        (b"a\x1b[31\rb", b"a\rb"),
        (b"a\x1b[3\x1b[1mb", b"a\x1b[1mb\x1b[0m"),
        (b"a\x1b]0;never ended\nnext line", b"a\nnext line"),
        (b"a\x1b[", b"a"),
        (b"a\x1b", b"a"),
        (b"\x1b[31mred", b"\x1b[31mred\x1b[0m"),
        (b"\x1b[?25lbar", b"\x1b[?25lbar\x1b[?25h"),
        (b"half \xe2\x96", b"half \xe2"),
    ],
)
def test_an_order_is_left_out_whole(data: bytes, left: bytes) -> None:
    assert cleaned(data) == left
    assert cleaned(data, range(len(data))) == left


def test_a_sequence_without_an_end_needs_no_memory() -> None:
    for opening in (b"\x1b]52;c;", b"\x1bP", b"\x1b[", b"\x1b[ ", b"\x1b("):
        output = JobOutput()
        assert output.feed(b"before" + opening) == b"before"
        filler = b"     " if opening.endswith((b"( "[:1], b" ")) else b"11111"
        for _ in range(2000):
            assert output.feed(filler * 100) == b""
            assert len(output._held) <= 128
        assert output.feed(b"m\x07\nafter\n").endswith(b"\nafter\n")


def test_our_own_text_does_not_become_a_part_of_a_jobs_half_sequence() -> None:
    output = JobOutput()
    output.feed(b"\x1b[8m\x1b]0;")
    assert output.end() == b"\x1b[0m"
    assert output.feed(b"warning: seen") == b"warning: seen"
    assert output.end() == b""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 🙂 👩\u200d💻", "plain é 漢 🙂 👩\u200d💻"),
        ("a\x1b]0;x\x07b", r"a\x1b]0;x\x07b"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("a\u200bb\ufeff\u2066", r"a\u200bb\ufeff\u2066"),
        ("a\x9b31m\x7f", r"a\x9b31m\x7f"),
        ("one\ntwo\tthree\r", "one\ntwo\tthree\\r"),
        ("bad\udcffname", r"bad\xffname"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_text_shows_what_it_hides(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(visible(text)) == shown
    visible(text).encode()


def test_a_cell_has_no_line_breaks() -> None:
    assert visible("a\nb\tc", keep="") == r"a\nb\tc"
    assert controls_in("a\x1b\x1b\n", keep="\n") == r"\x1b"
    assert controls_in("a\n") == r"\n"
    assert controls_in("plain 漢") == ""
