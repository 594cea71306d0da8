"""Kills `feat extract` and `feat train` at any moment; what was finished must stay, bit for bit."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

from safetensors.numpy import save_file

from bench.faults.mutants import Outcome
from bench.faults.sound import check, feat, random_state_dict, settings, write_arrays
from cache import FeatureCache
from data.ffmpeg import find_ffmpeg

NUM_VIDEOS = 5
STEPS = 400
#: Processes that a killed one leaves must have ended after so many seconds.
GRACE = 5.0


def digests(cache: Path) -> dict[str, str]:
    """Return the sha256 of every record's features, by key."""
    if not (cache / "feat-cache.json").is_file():
        return {}
    opened = FeatureCache(cache)
    return {
        entry.key: hashlib.sha256(opened.read_key(entry.key).tobytes()).hexdigest()
        for entry in opened.entries()
    }


def relatives(mark: str) -> list[str]:
    """Return the command lines of living processes whose environment holds a mark (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                words = (process / "cmdline").read_bytes().split(b"\0")
                found.append(b" ".join(words[:4]).decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return [line for line in found if line]


class Killer:
    """Starts commands, kills them and looks whether anything of them stays."""

    def __init__(self, rng: random.Random, outcome: Outcome, count: int) -> None:
        """Count into `outcome`."""
        self._rng = rng
        self._outcome = outcome
        self._count = count

    def fault(self, text: str) -> None:
        """Note what must not happen."""
        self._outcome.faults.append(f"{self._outcome.name}, kill {self.kills}: {text}")

    @property
    def kills(self) -> int:
        """How many there were."""
        return self._outcome.counts["killed"]

    def kill(self, *arguments: object, within: float) -> bool:
        """Run `feat` and kill it after a random time; return False if it had ended by itself."""
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            feat(*arguments),
            env={**os.environ, "FEAT_FAULTS_MARK": mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            process.wait(self._rng.uniform(0, within))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + GRACE
        while (left := relatives(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            self.fault(f"{len(left)} processes left: {left[0]}")
        assert process.stderr is not None
        with process.stderr:
            said = process.stderr.read() if not left else ""
        status = process.wait()
        if "Traceback" in said or "internal error" in said:
            self.fault(said.strip().rpartition("\n")[2])
        if status == -signal.SIGKILL:
            self._outcome.counts["killed"] += 1
            if sys.stderr.isatty():
                text = f"\r{self._outcome.name}: {self.kills} of {self._count} kills"
                print(text, end="", file=sys.stderr)
            return True
        self._outcome.counts["finished"] += 1
        if status:
            self.fault(f"exit code {status}: {said.strip()}")
        return False


def run_extract_kills(*, count: int, seed: int, work: Path) -> Outcome:
    """Kill extractions; after each the cache is sound and holds what it held."""
    folder = work / "extract-kills"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "videos").mkdir(parents=True)
    for number in range(NUM_VIDEOS):
        source = f"testsrc2=size=64x48:rate=10,hue=h={20 * number}"
        command = [find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source, "-frames:v"]
        subprocess.run([*command, "20", str(folder / f"videos/{number}.mp4")], check=True)
    save_file(random_state_dict(), folder / "rgb.safetensors")
    how = ["-q", "extract", "--videos", folder / "videos", "--streams", "rgb", "--threads", "1"]
    how += ["--rgb-weights", folder / "rgb.safetensors"]
    started = time.monotonic()
    check(*how, "--cache", folder / "alone")
    within = 1.2 * (time.monotonic() - started)
    alone = digests(folder / "alone")
    outcome = Outcome(name="kills of extract", seed=seed)
    killer = Killer(random.Random(f"extract {seed}"), outcome, count)
    cache = folder / "cache"
    held: dict[str, str] = {}
    while killer.kills < count:
        workers = ["--workers", 1 + killer.kills % 2]
        finished = not killer.kill(*how, *workers, "--cache", cache, within=within)
        now = digests(cache)
        if held.keys() - now.keys():
            killer.fault(f"{len(held.keys() - now.keys())} finished videos are gone")
        if any(alone.get(key) != digest for key, digest in now.items()):
            killer.fault("features differ from those of an extraction that was not killed")
        if finished and now != alone:
            killer.fault(f"finished with {len(now)} of {len(alone)} videos")
        if cache.exists():
            done = subprocess.run(feat("cache", "verify", cache), capture_output=True, text=True)
            if done.returncode:
                killer.fault(f"verify: {done.stdout.strip()[-200:]} {done.stderr.strip()[-200:]}")
        held = now
        if len(now) == len(alone):
            shutil.rmtree(cache)
            held = {}
    return outcome


def run_train_kills(*, count: int, seed: int, work: Path) -> Outcome:
    """Kill trainings and go on with them; the end is that of a training that was not killed."""
    folder = work / "train-kills"
    shutil.rmtree(folder, ignore_errors=True)
    labels = folder / "labels.csv"
    write_arrays(folder / "arrays", labels)
    check(
        *("-q", "cache", "import", folder / "arrays", "--cache", folder / "cache", "--labels"),
        *(labels, "--frames", labels, "--stream", "i3d", "--origin", "random"),
    )
    how = ["-q", "train", "--cache", folder / "cache"]
    started = time.monotonic()
    check(*how, "--out", folder / "alone", *settings(STEPS))
    within = 1.2 * (time.monotonic() - started)
    alone = (folder / "alone/model.safetensors").read_bytes()
    outcome = Outcome(name="kills of train", seed=seed)
    killer = Killer(random.Random(f"train {seed}"), outcome, count)
    run = folder / "run"
    while killer.kills < count:
        begun = (run / "config.json").is_file()
        # sums depend on the number of threads: the same bytes need the same number
        resume = ["--resume", run, "--threads", 1]
        arguments = resume if begun else ["--out", run, *settings(STEPS)]
        finished = not killer.kill(*how, *arguments, within=within)
        checkpoint = run / "model.safetensors"
        if checkpoint.is_file() and checkpoint.read_bytes() != alone:
            killer.fault("the result differs from that of a training that was not killed")
        if finished and not checkpoint.is_file():
            killer.fault("finished without a checkpoint")
        if finished or checkpoint.is_file():
            shutil.rmtree(run)
    return outcome


KILLS = {"extract": run_extract_kills, "train": run_train_kills}


def counts_text(counts: Counter[str]) -> str:
    """Return counts as the table has them."""
    return ", ".join(f"{number} {what}" for what, number in counts.most_common())
