"""Damages files by the thousand and watches what the product makes of them."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from bench.faults.mutate import mutate
from bench.faults.subjects import SUBJECTS

#: The promise: no damaged file takes longer or more.
SECONDS = 120.0
BYTES = 2 << 30


@dataclass
class Outcome:
    """What became of the damaged files of one kind.

    Attributes:
        counts: outcome -> how many.
        faults: what must not happen, a line each; the file that did it is kept.
        peak_bytes: the most memory a process held.
        slowest: seconds.
    """

    name: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    peak_bytes: int = 0
    slowest: float = 0.0


class Child:
    """The process that uses the files."""

    def __init__(self, name: str, folder: Path, target: str) -> None:
        """Start it and wait until it has used the sound file `target`."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.faults.child", name, str(folder), target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: Queue[str] = Queue()
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()
        if self._lines.get(timeout=300) != "ready\n":
            raise RuntimeError(f"{name}: the sound file {target} cannot be used")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def use(self, target: str) -> tuple[str, str, int]:
        """Return outcome, text and peak memory; `CRASHED` and `HANGS` are outcomes too."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(target) + "\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=SECONDS)
        except Empty:
            return "HANGS", f"no answer within {SECONDS:.0f} s", 0
        if not line:
            return "CRASHED", f"the process ended with status {self._process.wait()}", 0
        outcome, text, peak = json.loads(line)
        return outcome, text, peak

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close() if pipe else None


def run_mutants(name: str, *, count: int, seed: int, work: Path) -> Outcome:
    """Damage files of one kind `count` times; what does harm is kept in `work/culprits`."""
    rng = random.Random(f"{name} {seed}")
    subject = SUBJECTS[name]()
    folder = work / name / "files"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    subject.make(folder)
    targets = subject.targets(folder)
    sound = {target: (folder / target).read_bytes() for target in set(targets)}
    outcome = Outcome(name=subject.name, seed=seed)
    child = Child(name, folder, targets[0])
    for number in range(count):
        target = rng.choice(targets)
        damaged = mutate(sound[target], rng, text=subject.text)
        (folder / target).write_bytes(damaged)
        started = time.monotonic()
        answer, text, peak = child.use(target)
        outcome.slowest = max(outcome.slowest, time.monotonic() - started)
        if answer == "accepted" and not subject.may_accept(target):
            answer, text = "BELIEVED", "changed, and taken for sound"
        if peak > BYTES >= outcome.peak_bytes:
            answer, text = "MEMORY", f"{peak >> 20} MiB"
        outcome.peak_bytes = max(outcome.peak_bytes, peak)
        outcome.counts[answer] += 1
        if answer.isupper():
            kept = work / "culprits" / f"{name}-{seed}-{number}" / Path(target).name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(damaged)
            outcome.faults.append(f"{name} {number} ({target}): {answer}: {' '.join(text.split())}")
            if answer in ("CRASHED", "HANGS"):
                child.close()
                (folder / target).write_bytes(sound[target])
                child = Child(name, folder, targets[0])
        (folder / target).write_bytes(sound[target])
        if sys.stderr.isatty() and number % 20 == 0:
            print(
                f"\r{name} {number} of {count}, {len(outcome.faults)} faults",
                end="",
                file=sys.stderr,
            )
    child.close()
    return outcome
