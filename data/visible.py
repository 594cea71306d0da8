r"""Text that others wrote, made fit for a terminal and for a spreadsheet.

File names, servers' answers and what lies in archives may hold escape sequences that retitle a
window or forge output, marks that reverse the reading order, and bytes that are no text. They are
shown as `\x1b` or `\u202e`, which is also how JSON spells the latter.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, which can start
programs and send what other cells hold elsewhere. An apostrophe before it makes it a text.
"""

import re
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_STARTS = ("=", "+", "-", "@", "'")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def visible(text: str) -> str:
    """Return text in which nothing acts on a terminal but tabs and line breaks."""
    return _HIDDEN.sub(_spell, text)


def one_line(text: str) -> str:
    """Return text in which nothing acts on a terminal, in one line."""
    return visible(text.replace("\n", "\\n").replace("\t", "\\t"))


def _spell(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x7F else f"\\u{code:04x}"


def to_cell(value: Any) -> Any:
    """Return what stands for a value in a CSV file that people open in a spreadsheet.

    Only texts that a spreadsheet would compute change, and those that begin as a changed one does.
    """
    if not isinstance(value, str) or not value.startswith(_STARTS):
        return value
    return value if len(value) == 1 or _NUMBER.fullmatch(value) else f"'{value}"


def from_cell(text: str) -> str:
    """Return the text that `to_cell` was given."""
    return text[1:] if len(text) > 1 and text.startswith("'") else text


class VisibleStream:
    """A text stream that shows what it is given as `visible` does; else like the one it wraps."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; return how many of its characters were taken, all of them."""
        self._stream.write(visible(text))
        return len(text)
