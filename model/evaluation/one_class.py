"""The evaluation of one-class papers beside the right one: what each of its shortcuts is worth.

ConvAE (Hasan et al. 2016), stacked RNN (Luo et al. 2017), future frame prediction with a U-Net (Liu
et al. 2018), MNAD (Park et al. 2020) and those after them min-max normalise each test video, leave
out its first frames and report the epoch that is best on the test videos.
"""

from collections.abc import Mapping, Sequence

from model.evaluation.compat import CompatTable, frame_measures
from model.measures.metrics import VideoResult, frame_auc
from model.measures.normalising import ScoreRule

DROPPED = 4
"""Frames that Liu et al. and Park et al. leave out: those the first prediction is made from."""
NOTE = (
    "right: the evaluation above. Then each shortcut alone, as a difference from right. video: "
    "each video's scores min-max normalised, with its own future; drop_first: the first {count} "
    "frames of each video left out; best_step: {steps} one_class: {together}. far under video: 0.5 "
    "is half-way between a video's lowest and highest score. Only the first column is a result."
)
KEPT = (
    "of {count} snapshots the one with the highest AUC on the test videos (step {alone}; with the "
    "others step {together})."
)
NOT_KEPT = (
    "not available, for the run has kept no snapshots; train with --set snapshots=20, if the "
    "method has that setting."
)


def compare_with_one_class(
    results: Sequence[VideoResult],
    looks: Mapping[int, Sequence[VideoResult]],
    *,
    drop_first: int = DROPPED,
) -> CompatTable:
    """Evaluate scores in all columns, whatever method they are of.

    Args:
        results: of the run.
        looks: step -> results of the same videos at that step of the training; none: not kept.
        drop_first: frames at the beginning of each video that the papers do not score.

    Raises:
        ModelError: a video has no more frames than are to be dropped.
    """
    alone = ScoreRule()
    together = ScoreRule(normalise="video", drop_first=drop_first)
    columns = {
        "right": alone.apply(results),
        "video": ScoreRule(normalise="video").apply(results),
        "drop_first": ScoreRule(drop_first=drop_first).apply(results),
    }
    steps, all_of = NOT_KEPT, "video and drop_first together"
    if looks:
        best = {rule: _best_step(looks, rule) for rule in (alone, together)}
        columns["best_step"] = alone.apply(looks[best[alone]])
        results = looks[best[together]]
        steps = KEPT.format(count=len(looks), alone=best[alone], together=best[together])
        all_of = "all three together"
    columns["one_class"] = together.apply(results)
    are_abnormal = [result.is_abnormal for result in results if result.labels is not None]
    values, num_frames = {}, {}
    for column, found in columns.items():
        framed = [result for result in found if result.labels is not None]
        values[column] = frame_measures(framed, are_abnormal)
        num_frames[column] = sum(len(result.scores) for result in framed)
    return CompatTable(
        name="one-class",
        note=NOTE.format(count=drop_first, steps=steps, together=all_of),
        totals=("one_class",),
        values=values,
        num_frames=num_frames,
    )


def _best_step(looks: Mapping[int, Sequence[VideoResult]], rule: ScoreRule) -> int:
    """Return the step with the highest AUC of frames, the first of several."""
    aucs = {step: frame_auc(rule.apply(found))[0] for step, found in looks.items()}
    return max(aucs, key=lambda step: aucs[step] or 0.0)
