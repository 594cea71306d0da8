"""The commands `feat data ...`."""

from difflib import get_close_matches
from pkgutil import resolve_name

import click

from data.commands.tools import consensus_command, convert_command, split_command
from data.configuration import name_variables
from data.datasets.registry import DATASETS
from data.help_text import examples


class DataGroup(click.Group):
    """The commands added to it, and one for each dataset, imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names in order."""
        return sorted([*super().list_commands(ctx), *DATASETS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by name; it takes the options of this group as well (`--debug`)."""
        if cmd_name not in DATASETS:
            return super().get_command(ctx, cmd_name)
        command: click.Command = resolve_name(DATASETS[cmd_name])
        command.params += [option for option in self.params if option not in command.params]
        name_variables(command, "data", cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed; click alone knows no datasets to suggest."""
        near = get_close_matches(args[0], DATASETS)
        if near and args[0] not in self.list_commands(ctx):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@examples("feat data template --videos clips/", "feat data check --labels clips/labels.csv")
@click.group(name="data", cls=DataGroup)
def data_group() -> None:
    """Make, convert, divide and check labels.csv.

    The commands called like a dataset make it from the files that the dataset's authors publish.
    """


for _command in (split_command, consensus_command, convert_command):
    data_group.add_command(_command)
