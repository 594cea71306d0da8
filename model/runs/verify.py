"""Are run folders as they were written? What `feat runs verify` does."""

from dataclasses import dataclass
from pathlib import Path

from data.errors import FeatError
from model.runs.checkpoint import load_checkpoint
from model.runs.folder import (
    CHECKPOINT_NAME,
    REFERENCE_NAME,
    SUMMED_NAMES,
    SUMS_NAME,
    file_digest,
    not_finished,
)
from model.runs.state import StateFile
from model.runs.threshold import check_threshold
from model.runs.train import read_plan


@dataclass(frozen=True, kw_only=True)
class CheckedRun:
    """What was found of one run."""

    run: Path
    finished: bool
    problems: tuple[str, ...]
    """One line each: what is wrong with which file, and what to do."""

    def to_text(self) -> str:
        """Return one line."""
        if self.problems:
            return f"{self.run}: damaged: {'; also '.join(self.problems)}"
        if self.finished:
            return f"{self.run}: sound"
        return not_finished(self.run)


def verify_run(run: Path) -> CheckedRun:
    """Compare a run's files with the digests that were written with them.

    The checkpoint, held-out scores and what a killed training goes on from carry their own, and a
    threshold is fitted to these scores anew. Those of the other files are in `SHA256SUMS`, which a
    run that was imported, or made by an earlier build, does not have.
    """
    again = f"remove the folder {run} and train again"
    problems = []
    sums, finished = run / SUMS_NAME, (run / CHECKPOINT_NAME).is_file()
    try:
        if finished or sums.is_file():
            load_checkpoint(run, advice=again)
            check_threshold(run)
        else:
            read_plan(run)
            StateFile(run, save_seconds=0).read()
    except FeatError as error:
        problems.append(str(error))
    if sums.is_file():
        lines = sums.read_text("utf-8", "replace").splitlines()
        recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        without = tuple(name for name in SUMMED_NAMES if name != REFERENCE_NAME)
        if tuple(recorded) not in (SUMMED_NAMES, without):
            problems.append(f"{sums}: not as `feat train` wrote it; {again}")
        problems += [
            f"{run / name}: absent or changed since the training was finished; put the file back, "
            f"or {again}"
            for name in SUMMED_NAMES
            if name != CHECKPOINT_NAME and name in recorded
            if not (run / name).is_file() or file_digest(run / name) != recorded[name]
        ]
    return CheckedRun(run=run, finished=finished, problems=tuple(problems))
