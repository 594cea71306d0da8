"""Which trainings the paper's ablations are made of (Wan et al. 2021, sections 5.3 and 5.4).

Every part is a change of one thing in the same base: all streams, both losses, the preset's K and
lambda2. The base is trained once for all parts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.labels import VideoLabel
from model.methods.base import Method

BASE = "base"
MIN_CATEGORIES = 2
"""With one there is nothing to tell apart."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train."""

    name: str
    """Of its folder."""
    label: str
    """In the table."""
    method: Method
    streams: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One table or figure of the paper."""

    name: str
    title: str
    column: str
    """Head of the column that tells the variants apart."""
    variants: tuple[Variant, ...] = ()
    reason: str = ""
    """Why it cannot be run; empty if it can."""


def plan_parts(
    what: Sequence[str],
    method: Method,
    streams: Sequence[str],
    categories: int,
    *,
    k_values: Sequence[int] = (),
    score_weights: Sequence[float] = (),
) -> list[Part]:
    """Return the parts asked for, in the paper's order.

    Args:
        what: names of tables and figures.
        method: the base.
        streams: all that are to be used.
        categories: how many the training videos have, in the split that has the fewest.
        k_values: of figure 5; the base's own is added.
        score_weights: of figure 6; the base's own is added.

    Raises:
        ConfigError: a value is out of its range.
    """
    few = _too_few(method, categories)
    own = method.to_dict()

    def changed(label: str, name: str = BASE, **settings: Any) -> Variant:
        return Variant(
            name=name, label=label, method=method.changed(settings), streams=tuple(streams)
        )

    def part(
        name: str, title: str, column: str, reason: str, variants: Callable[[], Iterable[Variant]]
    ) -> Part:
        made = () if reason else tuple(variants())
        return Part(name=name, title=title, column=column, variants=made, reason=reason)

    made = (
        part(
            "table4", "Table 4: the features", "features",
            f"there is one stream only, {streams[0]}" if len(streams) < 2 else "",
            lambda: [
                *(replace(changed(one, f"only-{one}"), streams=(one,)) for one in streams),
                changed(" + ".join(streams)),
            ],
        ),
        part(
            "table5", "Table 5: the loss functions", "loss",
            _lacking(method, "category_weight", "score_weight") or few,
            lambda: [
                changed("scores only", "only-score-loss", category_weight=0.0),
                changed("categories only", "only-category-loss", score_weight=0.0),
                changed("both"),
            ],
        ),
        part(
            "figure5", "Figure 5: K, the clips of a window", "K", _lacking(method, "num_clips"),
            lambda: [
                changed(str(k), BASE if k == own["num_clips"] else f"k-{k}", num_clips=k)
                for k in sorted({*k_values, own["num_clips"]})
            ],
        ),
        part(
            "figure6", "Figure 6: lambda2, the weight of the scores' loss", "lambda2",
            _lacking(method, "score_weight")
            or (few and f"{few}: lambda2 would have nothing to be weighed against"),
            lambda: [
                changed(
                    f"{weight:g}",
                    BASE if weight == own["score_weight"] else f"lambda2-{weight:g}",
                    score_weight=weight,
                )
                for weight in sorted({*map(float, score_weights), float(own["score_weight"])})
            ],
        ),
        part(
            "figure7", "Figure 7: the confusion matrix of the categories", "category", few,
            lambda: [changed("")],
        ),
    )  # fmt: skip
    return [one for one in made if one.name in what]


def _too_few(method: Method, categories: int) -> str:
    """Return why categories cannot be looked at; empty if they can."""
    if not method.learns_categories:
        return f"{method.name} does not tell categories apart"
    if categories >= MIN_CATEGORIES:
        return ""
    return "the training videos have " + ("no category" if categories == 0 else "one category only")


def _lacking(method: Method, *settings: str) -> str:
    """Return why settings cannot be varied; empty if the method has them."""
    missing = [name for name in settings if name not in method.to_dict()]
    return f"{method.name} has no setting {', '.join(missing)}" if missing else ""


def count_categories(labels: Sequence[VideoLabel]) -> int:
    """Return how many categories the training videos with known frames have."""
    return len({row.category for row in labels if row.split == "train" and not row.is_weak} - {""})
