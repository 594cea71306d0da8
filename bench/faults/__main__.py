"""Damage files and kill processes, and say what became of them: `python -m bench.faults --help`.

Without options: 5,000 videos, 5,000 label and annotation files, 4,500 runs, 500 weights, 1,000
arrays and 50 kills each of extract and train. Exits with 1 if anything happened that must not; the
files that did it are kept.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.faults.kills import KILLS, counts_text
from bench.faults.mutants import Outcome, run_mutants
from bench.faults.subjects import SUBJECTS

COUNTS = {
    **{"videos": 5000, "labels": 5000, "runs": 4500, "weights": 500, "arrays": 1000},
    **{"extract": 50, "train": 50},
}


def main() -> None:
    """Run what was asked for and print a row a kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--count", type=int, help="of each kind, instead of the usual")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keep the files there instead of in a new folder")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="feat-faults-"))
    outcomes = []
    print("| damaged | count | seed | outcomes | faults | slowest | peak memory | minutes |")
    print("|---|---:|---:|---|---:|---:|---:|---:|")
    for kind in options.only:
        count = options.count or COUNTS[kind]
        started = time.monotonic()
        outcome = runner(kind)(count=count, seed=options.seed, work=work)
        outcomes.append(outcome)
        minutes = (time.monotonic() - started) / 60
        peak = f"{outcome.peak_bytes >> 20} MiB" if outcome.peak_bytes else ""
        slowest = f"{outcome.slowest:.1f} s" if outcome.slowest else ""
        print(
            f"| {outcome.name} | {count} | {outcome.seed} | {counts_text(outcome.counts)} | "
            f"{len(outcome.faults)} | {slowest} | {peak} | {minutes:.1f} |",
            flush=True,
        )
    faults = [fault for outcome in outcomes for fault in outcome.faults]
    if faults:
        print(f"\n{len(faults)} faults; the files are in {work / 'culprits'}:")
        print("\n".join(faults[:100]))
    raise SystemExit(bool(faults))


def runner(kind: str) -> Callable[..., Outcome]:
    """Return what runs one kind: it takes `count`, `seed` and `work`."""
    if kind in SUBJECTS:
        return lambda **how: run_mutants(kind, **how)
    return KILLS[kind]


if __name__ == "__main__":
    main()
