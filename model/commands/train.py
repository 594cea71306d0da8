"""The command `feat train`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.commands.options import FOLDER, json_option, labels_option
from data.clusters.engine import Cluster
from data.configuration import given_here
from data.help_text import examples
from data.number_option import SEED
from model.commands.options import (
    RunFolder,
    Setup,
    alarm_options,
    method_option,
    preset_option,
    read_training_labels,
    set_option,
    takes_setup,
    trains_on_cluster,
)

if TYPE_CHECKING:
    from model.experiments.seeds import SeedsReport
    from model.methods.base import Method
    from model.runs.train import TrainReport

# as a run is begun, so it ends
_SETTLED = (
    "labels_file", "out", "method", "preset", "assignments", "seed", "seeds", "false_alarms",
    "n_of_m", "streams", "configs",
)  # fmt: skip


@examples(
    "feat train",
    "feat train --method knn --streams rgb --out runs/knn",
    "feat train --seeds 5 --set steps=2000 --out runs/five",
)
@click.command()
@labels_option
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@click.option("--out", type=FOLDER, help="The run folder itself.  [default: a new one in --runs]")
@method_option
@preset_option
@set_option
@click.option(
    "--help-settings", is_flag=True, help="List the settings of the method and preset, and exit."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option(
    "--seeds", type=click.IntRange(min=1),
    help="Train so many, with seeds --seed and up, in one folder; report mean and spread. The "
    "same --out goes on with what is there.",
)  # fmt: skip
@click.option(
    "--resume", "killed", type=RunFolder(),
    help="Go on with the killed training in this run folder, with its method, settings, labels, "
    "cache and budget of false alarms. "
    "A method that keeps no state begins again; the result is the same.",
)  # fmt: skip
@alarm_options
@json_option
@trains_on_cluster
@takes_setup(of_run=False)
def train_command(
    setup: Setup,
    labels_file: Path | None,
    runs: Path,
    out: Path | None,
    method: str,
    preset: str,
    assignments: tuple[str, ...],
    help_settings: bool,
    seed: int,
    seeds: int | None,
    killed: Path | None,
    false_alarms: float,
    n_of_m: tuple[int, int],
    as_json: bool,
    cluster: Cluster | None,
) -> None:
    """Stage 2: train the ConvLSTM or another method.

    It needs a feature cache with labels.csv, and no video. A run folder is written.
    """
    from model.methods.registry import choose_method
    from model.runs.folder import is_seeds_folder

    several = is_seeds_folder(killed) if killed else bool(seeds)
    if cluster and not several:
        raise click.UsageError("--cluster is for several trainings: add --seeds")

    def choose() -> "Method":
        return _method_of(killed) if killed else choose_method(method, preset, assignments)

    if killed:
        _refuse_beside_resume()
    if help_settings:
        click.echo(_settings_text(choose()))
        return
    if killed:
        chosen = choose()
        setup = setup.of_killed(killed)
        cache, labels = setup.open_cache(), []
    else:  # what is missing is told before PyTorch is loaded
        cache = setup.open_cache()
        labels = read_training_labels(labels_file, cache)
        chosen = choose()

    from model.experiments.seeds import resume_seeds, train_seeds
    from model.measures.budget import AlarmRule
    from model.runs.progress import TrainProgress
    from model.runs.train import resume_training, run_training

    report: TrainReport | SeedsReport
    with TrainProgress(max_steps=0 if cluster else chosen.num_steps) as progress:
        how: dict[str, Any] = {
            "options": setup.data_options(cache),
            "device": setup.device,
            "on_row": progress.show,
        }
        if several:
            how["workers"] = setup.workers(cluster)
        if killed:
            resume = resume_seeds if several else resume_training
            report = resume(cache, killed, **how)
        else:
            needs, of = n_of_m
            alarms = AlarmRule(per_hour=false_alarms, needs=needs, of=of)
            how |= {"runs": runs, "out": out, "alarms": alarms}
            if seeds:
                report = train_seeds(cache, labels, chosen, first=seed, count=seeds, **how)
            else:
                report = run_training(cache, labels, chosen, seed=seed, **how)
    click.echo(json.dumps(report.to_dict()) if as_json else report.to_text())


def _refuse_beside_resume() -> None:
    """Refuse what a training that is gone on with has settled, rather than pass over it."""
    for option in click.get_current_context().command.params:
        if option.name in _SETTLED and given_here(option.name):
            raise click.UsageError(
                f"{option.opts[0]} beside --resume, which goes on with what the run was begun "
                f"with; leave {option.opts[0]} out, or train anew without --resume"
            )


def _method_of(killed: Path) -> "Method":
    """Return the method of a killed training, or of a folder of several seeds."""
    from model.experiments.seeds import seeds_method
    from model.runs.folder import is_seeds_folder
    from model.runs.train import read_plan

    return seeds_method(killed) if is_seeds_folder(killed) else read_plan(killed).method


def _settings_text(method: "Method") -> str:
    """Return what the method is, and a line for each setting: name, value, meaning and type."""
    from model.settings import describe_settings

    rows = describe_settings(method)
    kind = "" if method.supervision == "unsupervised" else " supervised"
    (about, *_) = (type(method).__doc__ or "").splitlines()
    head = [
        f"{method.name} ({method.supervision}{kind}): {about}",
        f"feat train --method {method.name} --set name=value; presets: {', '.join(method.presets)}",
    ]
    names = max(len(row.name) + len(row.value) for row in rows) + 1
    lines = [f"{f'{row.name}={row.value}':{names}}  {row.meaning} ({row.kind})" for row in rows]
    return "\n".join([*head, *lines])
