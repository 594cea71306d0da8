"""Which trainings the paper's ablations are made of (Wan et al. 2021, sections 5.3 and 5.4).

Every part is a change of one thing in the same base: all streams, both losses, the preset's K and
lambda2. The base is trained once for all parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import ConfigError
from data.labels import VideoLabel
from model.methods.base import Method

PARTS = ("table4", "table5", "figure5", "figure6", "figure7")
BASE = "base"
MIN_CATEGORIES = 2
"""With one there is nothing to tell apart."""

# The paper's text names K = 2 and 5 and lambda2 = 10, and no other value of its figures 5 and 6.
K_VALUES = (1, 2, 3, 4, 5, 6, 8)
SCORE_WEIGHTS = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train."""

    name: str
    """Of its folder."""
    label: str
    """In the table."""
    method: Method
    streams: tuple[str, ...]
    value: float = 0.0
    """Its place on a figure's axis."""


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
    k_values: Sequence[int] = K_VALUES,
    score_weights: Sequence[float] = SCORE_WEIGHTS,
) -> list[Part]:
    """Return the parts asked for, in the paper's order.

    Args:
        what: names of `PARTS`.
        method: the base.
        streams: all that are to be used.
        categories: how many the training videos have, in the split that has the fewest.
        k_values: of figure 5; the base's own is added.
        score_weights: of figure 6; the base's own is added.

    Raises:
        ConfigError: a part is unknown, or a value out of its range.
    """
    unknown = [name for name in what if name not in PARTS]
    if unknown:
        raise ConfigError(f"{', '.join(unknown)}: unknown, expected some of {', '.join(PARTS)}")
    ablation = _Ablation(method, tuple(streams))
    few = _too_few(method, categories)
    made = (
        ablation.table4(),
        ablation.table5(_lacking(method, "category_weight", "score_weight") or few),
        ablation.figure5(k_values, _lacking(method, "num_clips")),
        ablation.figure6(score_weights, _lacking(method, "score_weight"), few),
        ablation.figure7(few),
    )
    return [part for part in made if part.name in what]


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


class _Ablation:
    def __init__(self, method: Method, streams: tuple[str, ...]) -> None:
        self.method = method
        self.streams = streams

    def table4(self) -> Part:
        title, column = "Table 4: the features", "features"
        if len(self.streams) < 2:
            reason = f"there is one stream only, {self.streams[0]}"
            return Part(name="table4", title=title, column=column, reason=reason)
        single = [
            Variant(name=f"only-{name}", label=name, method=self.method, streams=(name,))
            for name in self.streams
        ]
        return Part(
            name="table4",
            title=title,
            column=column,
            variants=(*single, self._changed(" + ".join(self.streams), "", 0.0)),
        )

    def table5(self, few: str) -> Part:
        variants = (
            ()
            if few
            else (
                self._changed("scores only", "only-score-loss", 0.0, category_weight=0.0),
                self._changed("categories only", "only-category-loss", 0.0, score_weight=0.0),
                self._changed("both", "", 0.0),
            )
        )
        return Part(
            name="table5",
            title="Table 5: the loss functions",
            column="loss",
            variants=variants,
            reason=few,
        )

    def figure5(self, values: Sequence[int], lacking: str) -> Part:
        own = self._number("num_clips")
        return Part(
            name="figure5",
            title="Figure 5: K, the clips of a window",
            column="K",
            variants=()
            if lacking
            else tuple(
                self._changed(str(k), "" if k == own else f"k-{k}", k, num_clips=k)
                for k in sorted({*values, int(own)})
            ),
            reason=lacking,
        )

    def figure6(self, values: Sequence[float], lacking: str, few: str) -> Part:
        own = self._number("score_weight")
        reason = lacking or (few and f"{few}: lambda2 would have nothing to be weighed against")
        return Part(
            name="figure6",
            title="Figure 6: lambda2, the weight of the scores' loss",
            column="lambda2",
            variants=()
            if reason
            else tuple(
                self._changed(f"{v:g}", "" if v == own else f"lambda2-{v:g}", v, score_weight=v)
                for v in sorted({*map(float, values), own})
            ),
            reason=reason,
        )

    def figure7(self, few: str) -> Part:
        return Part(
            name="figure7",
            title="Figure 7: the confusion matrix of the categories",
            column="category",
            variants=() if few else (self._changed("", "", 0.0),),
            reason=few,
        )

    def _number(self, setting: str) -> float:
        """Return the base's own value; 0 for a method without the setting."""
        return float(self.method.to_dict().get(setting, 0))

    def _changed(self, label: str, name: str, value: float, **settings: Any) -> Variant:
        """Return a variant; without a name it is the base."""
        return Variant(
            name=name or BASE,
            label=label,
            method=self.method.changed(settings),
            streams=self.streams,
            value=value,
        )
