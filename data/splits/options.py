"""Options of the commands that divide videos into folds. Light: `--help` imports it."""

import click

folds_option = click.option(
    "--folds", type=click.IntRange(min=2), default=5, show_default=True,
    help="Divide the videos into so many parts.",
)  # fmt: skip
fold_option = click.option(
    "--fold", type=click.IntRange(min=0), default=0, show_default=True,
    help="The part to test on, counted from 0.",
)  # fmt: skip


def require_fold(fold: int, folds: int) -> None:
    """Do nothing if there is such a fold.

    Raises:
        BadParameter: there is none.
    """
    if fold >= folds:
        raise click.BadParameter(f"{fold} of {folds} folds, expected 0 to {folds - 1}")
