"""Training from a feature cache: labels -> features -> a method's fit -> run folder."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from cache import FeatureCache
from data.errors import FeatError, ModelError
from data.files import explain_os_error, write_json
from data.labels import VideoLabel, read_labels, write_labels
from data.output_folder import claim_folder
from data.sources import count_sources
from model.device import resolve_device
from model.measures.budget import AlarmRule, NoThresholdError
from model.measures.scores import spread_scores
from model.methods.base import Fitted, Material, Method
from model.methods.gather import DataOptions, gather
from model.runs.checkpoint import Checkpoint, RunInfo, load_checkpoint, save_checkpoint
from model.runs.environment import environment
from model.runs.event_log import EventLog
from model.runs.folder import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    LABELS_NAME,
    METRICS_NAME,
    file_digest,
    labels_digest,
    new_run_dir,
    working_in,
    write_sums,
)
from model.runs.reference import make_reference, write_reference
from model.runs.snapshots import SnapshotWriter
from model.runs.state import StateFile, unreadable_state
from model.runs.threshold import (
    StoredThreshold,
    normal_videos,
    read_threshold,
    store_threshold,
    threshold_words,
)
from model.training.session import FitSession, Row, SavedStateError

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a training did."""

    run: Path
    info: RunInfo
    seconds: float
    """That it took. Not in the checkpoint: the same seed leaves the same file."""
    threshold: StoredThreshold | None = None
    no_threshold: str = ""
    """Why none was fitted, if that is known."""

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dictionary of JSON types."""
        return {
            **self.info.result,
            "run": str(self.run),
            "cache": self.info.cache,
            "method": self.info.method.name,
            "supervision": self.info.method.supervision,
            "seed": self.info.seed,
            "streams": [stream.name for stream in self.info.streams],
            "categories": list(self.info.categories),
            "num_train_videos": len(self.info.train_videos),
            "num_val_videos": self.num_val_videos,
            "seconds": self.seconds,
            "threshold": self.threshold.to_dict() if self.threshold else None,
        }

    @property
    def num_val_videos(self) -> int:
        """Videos that selected, also where the method was fitted to them, too, in the end."""
        return len(self.info.val_videos) or int(self.info.result.get("refit_from", 0))

    def to_text(self) -> str:
        """Return three lines for people."""
        result = self.info.result
        kind = self.info.method.supervision
        words = kind if kind == "unsupervised" else f"{kind} supervised"
        parts = [
            f"{self.info.method.name} ({words}) fitted to {len(self.info.train_videos)} videos of "
            + " + ".join(stream.name for stream in self.info.streams)
        ]
        if "selected_by" in result and result["selected_by"] != "none":
            parts.append(f"selected by {result['selected_by']} on {self.num_val_videos}")
        if "best_step" in result:
            parts.append(f"step {result['best_step']} of {result['steps']}")
        parts.append(f"{self.seconds:.0f} s")
        told = threshold_words(None) + (f": {self.no_threshold}" if self.no_threshold else "")
        told = self.threshold.to_text() if self.threshold else f"threshold {told}"
        return f"{', '.join(parts)}\n{told}\nrun: {self.run}"


def run_training(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    method: Method,
    *,
    seed: int = 0,
    runs: Path = Path("runs"),
    out: Path | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    device: str = "auto",
    resume: bool = False,
    save_seconds: float = 10.0,
    alarms: AlarmRule = AlarmRule(),  # noqa: B008 - frozen
    on_row: Callable[[Row], None] = lambda row: None,
) -> TrainReport:
    """Fit a method to the `train` videos and leave it in a run folder.

    Args:
        cache: the features; no video is opened.
        labels: of all videos; the method sees what its supervision allows, `test` ones are only
            checked for leaks.
        method: with its settings.
        seed: of whatever it draws, and of the videos held out.
        runs: folder for the run folder, unless `out` names that.
        out: the run folder; it must be empty or absent.
        options: which features and labels are used.
        device: `auto` takes a GPU if there is one and the training is worth starting it.
        resume: go on with the killed training in `out`; the result is that of no kill.
        save_seconds: at least so long between two savings of what a resumed training needs.
        alarms: what the run's threshold is fitted for, on the normal ones of the videos held out.
        on_row: called with every row of `metrics.jsonl`.

    Raises:
        FeatError: labels and cache do not fit each other, or there is nothing to learn from.
    """
    started = time.monotonic()
    if device != "auto":
        resolve_device(device)  # a wrong one should not cost the reading of all features
    method, material = gather(method, cache, labels, options, seed=seed)
    target = torch.device(resolve_device(device, cpu_seconds=method.cpu_seconds(material)))
    planned = RunInfo(
        method=method,
        seed=seed,
        streams=material.train.streams,
        clip_len=material.train.clip_len,
        categories=material.categories,
        train_videos=material.train.contents,
        val_videos=material.val.contents if material.val else {},
        labels_sha256="",
        cache=str(cache.path.resolve()),
        label_sources=count_sources(
            [*material.train.labels, *(material.val.labels if material.val else ())]
        ),
        alarms=alarms,
    )
    run = _claim_killed(out, planned) if resume else _begin(runs, out, planned, labels, target)
    labels_sha256 = labels_digest(run)
    with working_in(run, go_on=f"`feat train --resume {quote(str(run))}`"):
        state = StateFile(run, save_seconds=save_seconds)
        saved = state.read() if resume else None
        _cut_log(run / METRICS_NAME, saved.step if saved else 0)
        with (
            _leaving_nothing(run, unless=lambda: resume or state.path.is_file()),
            _naming(run / METRICS_NAME),
            EventLog(run, run / METRICS_NAME, planned.to_dict()) as events,
            (run / METRICS_NAME).open("a", encoding="utf-8") as log,
        ):

            def note(row: Row) -> None:
                log.write(json.dumps(row) + "\n")
                log.flush()
                events.add(row)
                on_row(row)

            session = FitSession(
                seed=seed,
                device=target,
                log=note,
                saved=saved,
                offer_state=state.offer,
                keep_snapshot=SnapshotWriter(run, planned),
                show_selected=events.add_selected,
            )
            try:
                fitted = method.fit(material, session)
            except SavedStateError as error:
                raise unreadable_state(state.path, error) from error
            except torch.OutOfMemoryError as error:
                raise ModelError(
                    f"{run}: the GPU's memory does not suffice; use --device cpu, or a smaller "
                    "batch_size (--set)"
                ) from error
        info = replace(
            planned,
            categories=fitted.categories,
            labels_sha256=labels_sha256,
            result=dict(fitted.result),
        )
        if fitted.on_whole:
            info = _on_whole(info, material)
        # those it was fitted to, and before the checkpoint, with which a run is finished
        held_out = [material.val] if fitted.on_whole and material.val else []
        if not method.reads_frames:  # there are no features to be near to
            write_reference(run, make_reference([material.train, *held_out]))
        threshold = _fit_threshold(run, method, fitted, material, target, alarms)
        save_checkpoint(run, Checkpoint(info=info, parameters=fitted.parameters))
        seconds = round(time.monotonic() - started, 2)
        write_json(run / CONFIG_NAME, {**info.to_dict(), "seconds": seconds})
        write_sums(run)
        state.remove()
    return TrainReport(
        run=run,
        info=info,
        seconds=seconds,
        threshold=threshold if isinstance(threshold, StoredThreshold) else None,
        no_threshold=threshold if isinstance(threshold, str) else "",
    )


def resume_training(
    cache: FeatureCache, run: Path, *, options: DataOptions, **how: Any
) -> TrainReport:
    """Go on with a killed training, with the method, settings and labels its run folder holds.

    Args:
        cache: the one it was started with.
        run: the run folder, which also says what its threshold is fitted for.
        options: what is let pass; the streams and configurations are those of the run.
        how: as of `run_training`: device, on_row.

    Raises:
        FeatError: nothing to go on from, or the features are no longer those it started with.
    """
    planned = read_plan(run)
    if cache.labels_path.is_file() and file_digest(cache.labels_path) != labels_digest(run):
        logger.info(
            "%s: goes on with its own copy of the labels it was begun with; %s is not the same",
            run,
            cache.labels_path,
        )
    return run_training(
        cache,
        read_labels(run / LABELS_NAME),
        planned.method,
        seed=planned.seed,
        alarms=planned.alarms,
        runs=run.parent,
        out=run,
        options=replace(
            options,
            streams=tuple(stream.name for stream in planned.streams),
            configs={stream.name: stream.config for stream in planned.streams},
        ),
        resume=True,
        **how,
    )


def finish_training(
    run: Path,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    method: Method,
    *,
    seed: int,
    options: DataOptions,
    alarms: AlarmRule = AlarmRule(),  # noqa: B008 - frozen
    **how: Any,
) -> TrainReport:
    """Return what the training in a folder did; it is begun or gone on with if need be.

    Args:
        run: the run folder, which is of this training or absent.
        cache: the features.
        labels: of all videos.
        method: with its settings.
        seed: of the training.
        options: which features and labels are used.
        alarms: what its threshold is fitted for.
        how: as of `run_training`: device, on_row.
    """
    if (run / CHECKPOINT_NAME).is_file():
        advice = f"remove the folder {run} and run the same command again"
        info = load_checkpoint(run, advice=advice).info
        return TrainReport(
            run=run, info=info, seconds=_seconds_of(run), threshold=read_threshold(run)
        )
    if (run / CONFIG_NAME).is_file():
        logger.info("%s: left unfinished, going on with it", run)
        return resume_training(cache, run, options=options, **how)
    how |= {"runs": run.parent, "out": run, "options": options, "alarms": alarms}
    return run_training(cache, labels, method, seed=seed, **how)


def _begin(
    runs: Path,
    out: Path | None,
    planned: RunInfo,
    labels: Sequence[VideoLabel],
    device: torch.device,
) -> Path:
    """Make the run folder with all that a training goes on from."""
    names = "-".join(stream.name for stream in planned.streams)
    if out and claim_folder(out, marker=ENVIRONMENT_NAME, kind="a run", error=ModelError):
        if (out / CHECKPOINT_NAME).is_file():
            raise ModelError(f"{out}: the training there is finished; name a new folder with --out")
        if (out / CONFIG_NAME).is_file():
            with working_in(out, go_on=""):  # else it is under way
                raise ModelError(
                    f"{out}: a training there is not finished; go on with it with "
                    f"--resume {quote(str(out))}, or name a new folder with --out"
                )
    run = out or new_run_dir(runs, name=f"{planned.method.name}-{names}-s{planned.seed}")
    used_here = {"device": str(device), "threads": torch.get_num_threads()}
    write_json(run / ENVIRONMENT_NAME, {**environment(), **used_here})
    write_labels(run / LABELS_NAME, labels)
    write_json(run / CONFIG_NAME, replace(planned, labels_sha256=labels_digest(run)).to_dict())
    return run


def _fit_threshold(
    run: Path,
    method: Method,
    fitted: Fitted,
    material: Material,
    device: torch.device,
    rule: AlarmRule,
) -> StoredThreshold | str:
    """Fit and store a run's threshold; return it, or why there is none.

    Where the method was fitted to the videos held out in the end, their scores are those of what
    it had learnt without them.
    """
    held = []
    if material.val and any(not label.is_abnormal for label in material.val.labels):
        scores = method.score(fitted.before_whole or fitted, material.val, device)
        answer = spread_scores(scores, material.val, smoothing=method.smoothing)
        held = normal_videos(answer, material.val)
    try:
        return store_threshold(run, held, rule)
    except NoThresholdError as error:
        return str(error)


def _on_whole(info: RunInfo, material: Material) -> RunInfo:
    """Return the description of a fit to all training videos, those held out included."""
    return replace(
        info,
        train_videos={**info.train_videos, **info.val_videos},
        val_videos={},
        result={**info.result, "refit_from": len(info.val_videos)},
    )


def read_plan(run: Path) -> RunInfo:
    """Return what a killed training was begun with.

    Raises:
        ModelError: it is finished or never began.
    """
    if (run / CHECKPOINT_NAME).is_file():
        raise ModelError(f"{run}: the training there is finished; nothing to go on with")
    if not (run / CONFIG_NAME).is_file():
        raise ModelError(f"{run}: no killed training there to go on with; run `feat train` anew")
    try:
        values = json.loads((run / CONFIG_NAME).read_text(encoding="utf-8"))
        return RunInfo.from_dict(values)
    except (OSError, KeyError, TypeError, ValueError, ModelError) as error:
        what = " ".join(str(error).split())
        raise ModelError(
            f"{run}: no killed training there to go on with: {what:.200}; run `feat train` anew"
        ) from error


def _seconds_of(run: Path) -> float:
    """Return how long a finished training took; 0 if its folder does not say, as after a kill."""
    try:
        return float(json.loads((run / CONFIG_NAME).read_text(encoding="utf-8"))["seconds"])
    except (OSError, KeyError, ValueError):
        return 0.0


def _claim_killed(out: Path | None, planned: RunInfo) -> Path:
    if out is None:
        raise ValueError("the run to go on with must be named")
    before = read_plan(out).to_dict()
    now = replace(planned, labels_sha256=labels_digest(out)).to_dict()
    ignored = ("cache", "result", "label_sources")
    changed = [name for name in now if name not in ignored and before[name] != now[name]]
    changed = ["labels" if name == "labels_sha256" else name for name in changed]
    if changed:
        raise ModelError(
            f"{out}: the training was started with other {', '.join(changed)}; go on with the "
            "same labels and features, or run `feat train` anew"
        )
    return out


@contextmanager
def _leaving_nothing(run: Path, *, unless: Callable[[], bool]) -> Iterator[None]:
    """Remove the folder of a training that was refused, unless there is something to go on from.

    It holds a copy of the labels: going on would be refused for ever, and the same command with
    better ones, too, for a training is there.
    """
    try:
        yield
    except FeatError:
        if not unless():
            shutil.rmtree(run, ignore_errors=True)
        raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let an error of the operating system that names no file be that of writing this one."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise ModelError(explain_os_error("be written", path, error)) from error


def _cut_log(path: Path, step: int) -> None:
    """Drop the rows after a step, and what is no whole row, as a loss of power leaves it."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    *lines, _ = text.split("\n")
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(f"{line}\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            logger.warning("%s: a damaged row was dropped", path)
    path.write_text("".join(kept), encoding="utf-8")
