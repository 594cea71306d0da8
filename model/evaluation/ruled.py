"""Measures of scores that a rule has changed, always beside those of the scores as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.measures.bootstrap import COVERAGE
from model.measures.metrics import VideoResult
from model.measures.normalising import NO_THRESHOLD, ScoreRule
from model.measures.table import HEADLINE, AllMetrics, measure_all


@dataclass(frozen=True, kw_only=True)
class RuledMeasures:
    """What a rule makes of the measures of an evaluation; none of it is a result."""

    rule: ScoreRule
    metrics: AllMetrics

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dictionary of JSON types."""
        return {**self.metrics.to_dict(), **self.rule.to_dict()}

    def values(self) -> dict[str, float | None]:
        """Return the measures under names that tell the rule."""
        return {f"{name}{self.rule.suffix}": value for name, value in self.metrics.values.items()}


def measure_ruled(
    results: Sequence[VideoResult],
    categories: Sequence[str],
    rule: ScoreRule,
    *,
    threshold: float | None,
) -> RuledMeasures | None:
    """Return the measures by a rule; None for the rule that changes nothing.

    Args:
        results: with the scores as they are.
        categories: those the model knows.
        rule: what is done to the scores.
        threshold: the one fitted for the run; normalised scores are not measured with it.

    Raises:
        ModelError: a video has no more frames than are to be dropped.
    """
    if rule == ScoreRule():
        return None
    is_normalised = rule.normalise != "none"
    metrics = measure_all(
        rule.apply(results), categories, threshold=None if is_normalised else threshold
    )
    if threshold and is_normalised:
        fitted = {name: NO_THRESHOLD for name in metrics.reasons if name.endswith("_fitted")}
        metrics = replace(metrics, reasons={**metrics.reasons, **fitted})
    return RuledMeasures(rule=rule, metrics=metrics)


def rule_of(found: Mapping[str, Any]) -> ScoreRule:
    """Return the rule of what `metrics.json` holds; one that changes nothing if it tells none.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    ruled = found.get("ruled")
    if ruled is None:
        return ScoreRule()
    return ScoreRule(normalise=ruled["normalise"], drop_first=ruled["drop_first"])


def ruled_rows(found: Mapping[str, Any], names: Sequence[str] = HEADLINE) -> list[list[str]]:
    """Return a table, its head first: each measure of the scores as they are, and by the rule.

    Args:
        found: what `metrics.json` holds, `ruled` among it.
        names: of the measures to show, where one of the two is defined; none: all.
    """
    ruled = found["ruled"]
    title = f"{rule_of(found).title} (NOT a result)"
    return [
        ["scores", f"none ({COVERAGE:.0%} interval)", title],
        *(
            [name, _cell(name, found), _cell(name, ruled)]
            for name in ruled["intervals"]
            if (not names or name in names) and (found[name], ruled[name]) != (None, None)
        ),
    ]


def _cell(name: str, found: Mapping[str, Any]) -> str:
    value, bounds = found[name], found["intervals"][name]
    if value is None:
        return f"none ({found['reasons'][name]})"
    return f"{value:.4f}" + (f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else "")
