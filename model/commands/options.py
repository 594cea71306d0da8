"""What the commands of the second stage have in common: options, labels, the process set up."""

import difflib
import functools
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from cache.commands.options import FOLDER, NOfM, config_option
from data.clusters.options import takes_cluster
from data.number_option import Number
from data.process import use_threads
from model.methods.registry import METHODS, PRESETS
from model.runs.folder import CONFIG_NAME, SEEDS_NAME

if TYPE_CHECKING:
    from cache import FeatureCache
    from data.clusters.engine import Cluster
    from data.labels import VideoLabel
    from model.experiments.clusters import Workers
    from model.experiments.folder import Terms
    from model.methods.gather import DataOptions

logger = logging.getLogger(f"feat.{__name__}")

STARTED = (CONFIG_NAME, SEEDS_NAME)
"""Files of which every run folder has one from its start."""


class MethodName(click.ParamType[str]):
    """The name of a method; unknown ones are a usage error that names those that are near."""

    name = "method"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name if there is such a method."""
        if value not in METHODS:
            near = difflib.get_close_matches(str(value), METHODS, n=3)
            advice = f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(METHODS)}"
            self.fail(f"{value!r} is unknown; {advice}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin so."""
        return [CompletionItem(name) for name in METHODS if name.startswith(incomplete)]


class RunFolder(click.Path):
    """The path of a run folder; shells complete it to those in --runs."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the run folders whose path begins so, or leave it to the shell without any."""
        runs = Path(ctx.params.get("runs") or "runs")
        found = sorted({str(path.parent) for name in STARTED for path in runs.glob(f"*/{name}")})
        items = [CompletionItem(path) for path in found if path.startswith(incomplete)]
        return items or super().shell_complete(ctx, param, incomplete)


class Names(click.ParamType[tuple[Any, ...]]):
    """Several values with commas between them, each of one type."""

    def __init__(self, each: click.ParamType[Any]) -> None:
        self.each = each
        self.name = f"{each.name},..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Return the values."""
        if not isinstance(value, str):
            return tuple(value)
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return tuple(self.each.convert(part, param, ctx) for part in parts)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return what completes the last of the values."""
        before, comma, last = incomplete.rpartition(",")
        items = self.each.shell_complete(ctx, param, last)
        return [CompletionItem(before + comma + item.value) for item in items]


method_option = click.option(
    "--method", type=MethodName(), default="convlstm", show_default=True,
    help=f"{', '.join(METHODS)}.",
)  # fmt: skip
preset_option = click.option(
    "--preset", type=click.Choice(PRESETS), default="default", show_default=True,
    help="Settings of the method under one name; paper and released are the ConvLSTM's.",
)  # fmt: skip
set_option = click.option(
    "--set", "assignments", metavar="NAME=VALUE", multiple=True,
    help="Change a setting of the method; `feat train --method M --help-settings` lists them. "
    "Repeatable.",
)  # fmt: skip
smoothing_option = click.option(
    "--smoothing", type=Number(0, 100),
    help="Smooth frame scores: standard deviation in clips.  [default: as each run says]",
)  # fmt: skip


def alarm_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take what a threshold is fitted for."""
    budget = click.option(
        "--false-alarms", type=Number(0, min_open=True), default=1.0, show_default=True,
        help="Fit the threshold for so many false alarms an hour, on held-out normal videos.",
    )  # fmt: skip
    clips = click.option(
        "--n-of-m", type=NOfM(), default="1/1", show_default=True,
        help="N of M successive clips must reach the threshold for an alarm.",
    )  # fmt: skip
    return budget(clips(command))


def show_run(*run: Any) -> None:
    """Tell of a finished run of an experiment: its names, its seed and its AUC."""
    *names, seed, auc = run
    found = "none" if auc is None else f"{auc:.3f}"
    logger.info("%s, seed %d: AUC %s", ", ".join(names), seed, found)


trains_on_cluster = takes_cluster(sees="the cache and the folder of runs")
streams_option = click.option(
    "--streams", type=Names(click.STRING), default=(),
    help="Such as rgb or rgb,flow.  [default: those all videos have]",
)  # fmt: skip
_COMMON = (
    config_option,
    click.option(
        "--threads", type=click.IntRange(min=1), help="Processor threads.  [default: one a core]"
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda, or auto: a GPU if there is one, for a training if it is then faster.",
    ),
    click.option(
        "--skip-missing", is_flag=True, help="Leave out labelled videos that the cache lacks."
    ),
    click.option(
        "--allow-misaligned",
        is_flag=True,
        help="Cut labels that go beyond the end of their video.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a command of the second stage works with: features, device, and what is let pass."""

    cache_dir: Path | None
    configs: tuple[str, ...]
    device: str
    skip_missing: bool
    allow_misaligned: bool
    streams: tuple[str, ...] = ()
    threads: int | None = None

    def open_cache(self) -> "FeatureCache":
        """Return the cache that --cache names.

        Raises:
            CacheError: there is none.
        """
        from cache import FeatureCache

        assert self.cache_dir is not None, "a command without a default cache opens its own"
        return FeatureCache(self.cache_dir)

    def open_cache_of(self, run: Path) -> "FeatureCache":
        """Return the cache that --cache names, or the one a run was trained from.

        Raises:
            CacheError: there is none.
            ModelError: the run's checkpoint cannot be read.
        """
        from cache import FeatureCache
        from data.errors import CacheError
        from model.runs.checkpoint import load_checkpoint
        from model.runs.trained import run_folders

        if self.cache_dir:
            return self.open_cache()
        try:
            return FeatureCache(Path(load_checkpoint(run_folders(run)[0]).info.cache))
        except CacheError as error:
            raise CacheError(
                f"{error} (the run was trained from there; name its cache with --cache)"
            ) from error

    def of_killed(self, run: Path) -> "Setup":
        """Return this with the cache of a killed training, unless --cache or a setting names one.

        Where the folder does not say its cache, the default stays.
        """
        source = click.get_current_context().get_parameter_source("cache_dir")
        if source is not ParameterSource.DEFAULT:
            return self
        for path in (run / CONFIG_NAME, *sorted(run.glob(f"seed-*/{CONFIG_NAME}"))):
            with suppress(OSError, ValueError, KeyError, TypeError):
                return replace(self, cache_dir=Path(json.loads(path.read_text("utf-8"))["cache"]))
        return self

    def data_options(self, cache: "FeatureCache") -> "DataOptions":
        """Return which features and labels are used.

        Raises:
            CacheError: a configuration that was named is not in the cache.
        """
        from cache.configs import choose_configs
        from model.methods.gather import DataOptions

        return DataOptions(
            streams=self.streams,
            configs=choose_configs(cache, self.configs),
            skip_missing=self.skip_missing,
            allow_misaligned=self.allow_misaligned,
        )

    def workers(self, cluster: "Cluster | None") -> "Workers | None":
        """Return where trainings are finished; None: here."""
        from model.experiments.clusters import Workers

        return Workers(cluster, self.threads) if cluster else None

    def terms(self, cache: "FeatureCache", smoothing: float | None) -> "Terms":
        """Return what is the same for all runs of an experiment; raises as `data_options`."""
        from model.experiments.folder import Terms

        return Terms(options=self.data_options(cache), device=self.device, smoothing=smoothing)


def takes_setup(*, of_run: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the options of `Setup` as one argument.

    Args:
        of_run: the command works on a trained run, which knows its streams and its cache.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_setup(threads: int | None, **given: Any) -> None:
            use_threads(threads)
            names = [field.name for field in fields(Setup) if field.name in given]
            own = {name: given.pop(name) for name in names}
            command(setup=Setup(**own, threads=threads), **given)

        if of_run:
            cache_help, default = "[default: the cache of the run]", None
        else:
            cache_help, default = "The feature cache to train from.", Path("features")
        cache_option = click.option(
            "--cache", "cache_dir", type=FOLDER, default=default, show_default=not of_run,
            help=cache_help,
        )  # fmt: skip
        added = [cache_option, *([] if of_run else [streams_option]), *_COMMON]
        decorated: Callable[..., None] = with_setup
        for option in reversed(added):
            decorated = option(decorated)
        return decorated

    return decorate


def read_training_labels(path: Path | None, cache: "FeatureCache") -> "list[VideoLabel]":
    """Return the labels of a file, or of the cache where none is named."""
    from data.errors import LabelsError
    from data.labels import read_labels

    if path is None and not cache.labels_path.exists():
        raise LabelsError(
            f"{cache.labels_path}: the cache holds no labels; put a labels.csv beside the videos "
            "and run `feat extract`, or name one with --labels"
        )
    return read_labels(path or cache.labels_path)
