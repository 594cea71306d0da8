"""Progress of long work: shown where somebody waits, and nowhere else."""

import logging
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import progress
from data.progress import announced, followed

ROOT = Path(__file__).parents[1]
SLOW = """
import logging, sys, time
from data import progress
logging.basicConfig(level=sys.argv[1], format="%(message)s")
progress.PATIENCE_SECONDS = 0.05
for _ in progress.followed(range(6), "verify: shards", total=6): time.sleep(0.03)
"""


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "feat")
    return caplog


def test_what_takes_long_says_how_far_it_is_but_not_at_every_piece(said) -> None:
    taken = []
    for item in followed(iter("abcdef"), "verify: shards", total=6):
        taken.append(item)
        time.sleep(0.03)
    assert taken == list("abcdef")
    (line,) = said.messages  # the next would come half a minute later
    assert line in ("verify: shards: 2 of 6", "verify: shards: 1 of 6")


def test_what_is_done_in_a_moment_says_nothing(said) -> None:
    assert list(followed(range(1000), "x", total=1000)) == list(range(1000))
    assert not said.messages


def test_what_has_no_pieces_is_named_once_if_it_takes_long(said) -> None:
    with announced("compiling"):
        pass
    with announced("loading"):
        time.sleep(0.2)
    with pytest.raises(OSError, match="disk"), announced("writing"):
        raise OSError("disk")
    time.sleep(0.1)
    assert said.messages == ["loading"]


def test_an_error_and_a_stop_pass_through(said) -> None:
    def broken():
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(followed(broken(), "x", total=2))
    first = followed(iter([1, 2]), "x", total=2)
    assert next(first) == 1
    first.close()
    assert list(followed([], "x", total=0)) == []


@pytest.mark.parametrize(("level", "shown"), [("INFO", True), ("WARNING", False)])
def test_a_terminal_gets_a_bar_unless_it_is_to_be_quiet(level: str, shown: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", SLOW, level], stderr=theirs, env=environment, check=True
    )
    os.close(theirs)
    text = b""
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while block := terminal.read(4096):
                text += block
        except OSError:
            pass  # how Linux says that nobody writes any more
    assert done.returncode == 0
    assert (b"verify: shards" in text) == shown
