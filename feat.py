"""The `feat` command: parse, call one function, print. The work is in the packages."""

import contextlib
import copy
import logging
import os
import signal
import sys
import traceback
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import click

_HOME = Path(__file__).resolve().parent
_NAMES = ("extract", "model", "cache", "data", "predict")


def _find_own_packages() -> None:
    """Make `import data` and its like find the packages beside this file.

    The project in whose folder a user works may have packages of these names as well, and
    PYTHONPATH may name that folder: it would be searched first. Folders that hold such a name are
    searched last instead. Worker processes inherit the order.
    """
    for name in _NAMES:
        if name in sys.modules:
            module = sys.modules[name]
            where = getattr(module, "__file__", None) or next(iter(module.__path__), "")
            own = (_HOME / f"{name}.py", _HOME / name / "__init__.py")
            if Path(where).resolve() not in own:
                sys.exit(
                    f"error: feat: the module {name} was loaded from {where} before feat, expected "
                    f"that in {_HOME}; run feat in a Python process of its own"
                )
    others = [entry for entry in sys.path if Path(entry).resolve() != _HOME]
    hiding = [entry for entry in others if any(_holds(entry, name) for name in _NAMES)]
    # an editable install is not on the path at all, so that even a plain folder would hide it
    found = sys.path if len(others) < len(sys.path) else [*sys.path, str(_HOME)]
    sys.path[:] = [entry for entry in found if entry not in hiding] + hiding


def _holds(entry: str, name: str) -> bool:
    spec = PathFinder.find_spec(name, [entry])
    return spec is not None and spec.origin is not None  # a folder without code has none


_find_own_packages()

try:
    from cache.commands.labels import check_command, stats_command
    from cache.commands.upkeep import cache_group
    from data.commands.config import config_command
    from data.commands.prepare import data_group
    from data.commands.sample import sample_command
    from data.configuration import load_configuration, name_variables
    from data.errors import FeatError
    from data.process import TerminatedError, end_in_order_when_stopped, set_up_process
    from data.visible import VisibleStream, one_line, visible
    from extract.commands import doctor_command, extract_command, preview_command, template_command
    from extract.weights.commands import weights_group
    from model.commands.ablate import ablate_command
    from model.commands.compare import compare_command
    from model.commands.eval import eval_command
    from model.commands.import_run import import_run_command
    from model.commands.report import report_command
    from model.commands.runs import runs_group
    from model.commands.threshold import threshold_command
    from model.commands.train import train_command
    from predict.commands import predict_command
except KeyboardInterrupt:  # nothing is begun that could be gone on with
    sys.exit(128 + signal.SIGINT)


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["feat.debug"] = True


def _add_debug_option(command: click.Command) -> None:
    """Let `--debug` stand after the command as well as before it."""
    option = click.Option(
        ["--debug"], is_flag=True, expose_value=False, callback=_set_debug,
        help="Show the traceback of an error.",
    )  # fmt: skip
    command.params.append(option)
    for child in getattr(command, "commands", {}).values():
        _add_debug_option(child)


class StderrHandler(logging.Handler):
    """Writes messages to what stderr is now, so that a progress bar can stand below them.

    A warning is given once, not for each of several seeds or folds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._given: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message; what it tells of, a video's name or an error, begins no line."""
        shown = copy.copy(record)
        if isinstance(record.args, tuple):
            shown.args = tuple(
                one_line(str(value)) if isinstance(value, str | Path | BaseException) else value
                for value in record.args
            )
        text = self.format(shown)
        if record.levelno == logging.WARNING:
            if text in self._given:
                return
            self._given.add(text)
        click.echo(visible(text), err=True)


class FeatGroup(click.Group):
    """A click group that turns every error into one line on stderr and exit code 1.

    What it and its commands print acts on no terminal, whatever the names in it are.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line; its results go to stdout."""
        # stderr has a progress bar's escape sequences: its messages are mended one by one
        with contextlib.redirect_stdout(VisibleStream(sys.stdout)):  # type: ignore[type-var]
            return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which one comes to need the commands."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raise only what click itself knows how to show."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.ClickException as error:
            error.message = visible(error.message + _source_of(error))  # type: ignore[misc]
            raise
        except KeyboardInterrupt as stop:
            # 128 and the signal's number, as shells count
            number = signal.SIGTERM if isinstance(stop, TerminatedError) else signal.SIGINT
            how = "terminated" if number == signal.SIGTERM else "interrupted"
            advice = str(stop) or "what is finished is kept; the same command goes on"
            click.echo(f"\n{how}: {visible(advice)}", err=True)
            ctx.exit(128 + number)
        except BrokenPipeError:
            # the reader of our stdout went away (`feat ... | head`): nothing left to say
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the interpreter exits
            ctx.exit(1)
        except Exception as error:  # noqa: BLE001 - the outermost frame: nothing may leak past it
            if ctx.meta.get("feat.debug"):
                click.echo(visible("".join(traceback.format_exception(error))), err=True, nl=False)
            click.echo(f"error: {visible(_message(error))}", err=True)
            ctx.exit(1)


def _source_of(error: click.ClickException) -> str:
    """Return where a wrong value was found, if that is not the command line."""
    if not isinstance(error, click.BadParameter) or not error.ctx:
        return ""
    option, words = error.param, error.ctx.command_path.split()[1:]
    if not isinstance(option, click.Option) or "feat.configuration" not in error.ctx.meta:
        return ""
    source = error.ctx.meta["feat.configuration"].source_of(words, error.ctx, option)
    return "" if source in ("command line", "default") else f" (from {source})"


def _message(error: Exception) -> str:
    if isinstance(error, FeatError):
        return str(error)
    if isinstance(error, OSError):
        # str() gives number, cause and path: what the user needs to mend it
        return f"the operating system refused: {error}"
    return (
        f"internal error, please report it: {type(error).__name__}: {one_line(str(error))} "
        "(run again with --debug for the traceback)"
    )


# color: click would drop escape sequences before they could be shown
@click.group(cls=FeatGroup, context_settings={"help_option_names": ["-h", "--help"], "color": True})
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr.")
@click.option(
    "--config-file", type=click.Path(path_type=Path, dir_okay=False),
    help="Values for options.  [default: feat.toml in the current folder, if it is there]",
)  # fmt: skip
@click.version_option(package_name="feat")
@click.pass_context
def cli(ctx: click.Context, quiet: bool, config_file: Path | None) -> None:
    """Find abnormal events in videos: extract features once, share them, train, evaluate.

    \b
    feat extract clips/             decode, TV-L1 flow, I3D -> ./features
    feat train                      ConvLSTM multi-task model -> ./runs
    feat eval                       AUC, false alarms, report.html to look at
    feat predict clip.mp4           abnormal intervals of a video
    """
    logger = logging.getLogger("feat")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.handlers.clear()
    logger.addHandler(StderrHandler())
    logger.propagate = False
    ctx.meta["feat.configuration"] = load_configuration(ctx, cli, config_file)


# they need the cache or the decoder, which data/ does not know
data_group.add_command(check_command)
data_group.add_command(stats_command)
data_group.add_command(template_command)

for _command in (
    sample_command,
    extract_command,
    preview_command,
    train_command,
    threshold_command,
    eval_command,
    report_command,
    compare_command,
    ablate_command,
    predict_command,
    data_group,
    cache_group,
    runs_group,
    weights_group,
    import_run_command,
    doctor_command,
    config_command,
):
    cli.add_command(_command)
_add_debug_option(cli)
name_variables(cli)


def main() -> None:
    """Entry point of the `feat` script."""
    set_up_process()
    end_in_order_when_stopped()
    cli(prog_name="feat")


if __name__ == "__main__":
    main()
