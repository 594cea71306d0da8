"""Damage of many kinds, drawn from a seed."""

import random
import re

_NUMBERS = (
    *("-1", "0", "1e999", "nan", "1.5", "99999999999999999999", "2147483648", "0x10", "4294967296"),
    *("", "?", "all", "1:2", "5:5", "9:3", "0:01:02", "-", "/", "..", "\x1b[31m", "é", "\u202e"),
)
_PIECES = (
    b"\0",
    b"\xff\xfe",
    b"\r",
    b"\n",
    b'"',
    b";",
    b",",
    b"\t",
    b"{",
    b"]",
    b"%s" * 9,
    b"=1+1",
)


def mutate(data: bytes, rng: random.Random, *, text: bool = False) -> bytes:
    """Return `data` changed in one of many ways, mostly small; never `data` itself.

    Args:
        data: the file as it was.
        rng: what draws place and kind.
        text: change words and lines as well as bytes.
    """
    while True:
        changed = _mutate_text(data, rng) if text and rng.random() < 0.6 else _mutate(data, rng)
        if changed != data:
            return changed


def _mutate(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    # half of the damage goes where formats keep their headers
    end = min(len(out), 512) if rng.random() < 0.5 else len(out)
    at = rng.randrange(end) if end else 0
    kind = rng.randrange(7)
    if kind == 0 and out:  # bits
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            out[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif kind == 1:  # cut off
        del out[at:]
    elif kind == 2:  # inserted, deleted, doubled
        size = rng.choice([1, 4, 8, 512])
        piece = bytes(out[at : at + size])
        out[at : at + size] = rng.choice([rng.randbytes(size), b"", piece * 2])
    elif kind == 3:  # a run of zeros or ones, as of a torn page
        size = rng.choice([4, 16, 512, 4096])
        out[at : at + size] = rng.choice([b"\0", b"\xff"]) * len(out[at : at + size])
    elif kind == 4:  # two pieces exchanged
        size = rng.choice([4, 64, 512])
        other = rng.randrange(len(out)) if out else 0
        first, second = bytes(out[at : at + size]), bytes(out[other : other + size])
        out[at : at + size], out[other : other + size] = second, first
    elif kind == 5:  # a number of four or eight bytes set to an extreme
        value = rng.choice([0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1])
        size = 8 if value >= 2**32 else rng.choice([4, 8])
        out[at : at + size] = value.to_bytes(size, rng.choice(["little", "big"]))
    else:  # garbage, with or without the right beginning
        out = out[: rng.choice([0, 4, 16, 128])] + rng.randbytes(rng.randrange(3000))
    return bytes(out)


def _mutate_text(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:  # a word or number
        words = list(re.finditer(rb"[^\s,;:\"]+", data))
        if words:
            word = rng.choice(words)
            new = rng.choice(_NUMBERS).encode()
            return data[: word.start()] + new + data[word.end() :]
    if kind == 1:  # lines in another order, missing or doubled
        lines = data.splitlines(keepends=True)
        if lines:
            at = rng.randrange(len(lines))
            lines[at : at + 1] = rng.choice([[], [lines[at]] * 2, [lines[at], rng.choice(lines)]])
            return b"".join(lines)
    if kind == 2:  # another encoding or another separator
        as_text = data.decode("utf-8", "replace")
        encoding = rng.choice(["utf-16", "utf-8-sig", "utf-32", "utf-7"])
        other = data.replace(b",", rng.choice([b";", b"\t", b" ", b",,"]))
        return rng.choice([as_text.encode(encoding), other, data.replace(b"\n", b"\r")])
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_PIECES) + data[at:]
