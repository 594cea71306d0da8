"""Which trainings the paper's ablations are made of (Wan et al. 2021, sections 5.3 and 5.4).

Every part is a change of one thing in the same base: all streams, both losses, the preset's K and
lambda2. The base is trained once for all parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import ConfigError
from data.labels import VideoLabel
from model.config import Preset

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
    preset: Preset
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
    preset: Preset,
    streams: Sequence[str],
    categories: int,
    *,
    k_values: Sequence[int] = K_VALUES,
    score_weights: Sequence[float] = SCORE_WEIGHTS,
) -> list[Part]:
    """Return the parts asked for, in the paper's order.

    Args:
        what: names of `PARTS`.
        preset: the base.
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
    ablation = _Ablation(preset, tuple(streams))
    few = (
        ""
        if categories >= MIN_CATEGORIES
        else "the training videos have "
        + ("no category" if categories == 0 else "one category only")
    )
    made = (
        ablation.table4(),
        ablation.table5(few),
        ablation.figure5(k_values),
        ablation.figure6(score_weights, few),
        ablation.figure7(few),
    )
    return [part for part in made if part.name in what]


def count_categories(labels: Sequence[VideoLabel]) -> int:
    """Return how many categories the training videos with known frames have."""
    return len({row.category for row in labels if row.split == "train" and not row.is_weak} - {""})


class _Ablation:
    def __init__(self, preset: Preset, streams: tuple[str, ...]) -> None:
        self.preset = preset
        self.streams = streams

    def table4(self) -> Part:
        title, column = "Table 4: the features", "features"
        if len(self.streams) < 2:
            reason = f"there is one stream only, {self.streams[0]}"
            return Part(name="table4", title=title, column=column, reason=reason)
        single = [
            Variant(name=f"only-{name}", label=name, preset=self.preset, streams=(name,))
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
            self._changed("scores only", "only-score-loss", 0.0, category_weight=0.0),
            self._changed("categories only", "only-category-loss", 0.0, score_weight=0.0),
            self._changed("both", "", 0.0),
        )
        return Part(
            name="table5",
            title="Table 5: the loss functions",
            column="loss",
            variants=() if few else variants,
            reason=few,
        )

    def figure5(self, values: Sequence[int]) -> Part:
        own = self.preset.model.num_clips
        return Part(
            name="figure5",
            title="Figure 5: K, the clips of a window",
            column="K",
            variants=tuple(
                self._changed(str(k), "" if k == own else f"k-{k}", k, num_clips=k)
                for k in sorted({*values, own})
            ),
        )

    def figure6(self, values: Sequence[float], few: str) -> Part:
        own = self.preset.train.score_weight
        return Part(
            name="figure6",
            title="Figure 6: lambda2, the weight of the scores' loss",
            column="lambda2",
            variants=()
            if few
            else tuple(
                self._changed(f"{v:g}", "" if v == own else f"lambda2-{v:g}", v, score_weight=v)
                for v in sorted({*map(float, values), own})
            ),
            reason=few and f"{few}: lambda2 would have nothing to be weighed against",
        )

    def figure7(self, few: str) -> Part:
        return Part(
            name="figure7",
            title="Figure 7: the confusion matrix of the categories",
            column="category",
            variants=() if few else (self._changed("", "", 0.0),),
            reason=few,
        )

    def _changed(self, label: str, name: str, value: float, **settings: Any) -> Variant:
        """Return a variant; without a name it is the base."""
        return Variant(
            name=name or BASE,
            label=label,
            preset=self.preset.changed(settings),
            streams=self.streams,
            value=value,
        )
