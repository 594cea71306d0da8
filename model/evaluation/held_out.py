"""What a run says of normal videos that it has not learnt from."""

from collections.abc import Sequence
from pathlib import Path

from cache import FeatureCache
from data.errors import ModelError
from data.labels import VideoLabel
from model.evaluation.evaluate import choose_videos
from model.features.choose import named
from model.methods.gather import DataOptions
from model.runs.threshold import NormalVideo, normal_videos
from model.runs.trained import load_run


def score_held_out(
    run: Path,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    device: str,
    options: DataOptions,
) -> list[NormalVideo]:
    """Return the scores of the normal ones of the `val` videos.

    Args:
        run: a finished run folder of one seed.
        cache: the features of the videos.
        labels: of these or more videos.
        device: `auto` takes a GPU if there is one.
        options: as of `run_evaluation`.

    Raises:
        ModelError: there is no such video, or the run was trained on one.
        FeatError: as of `run_evaluation`.
    """
    trained = load_run(run, device=device)
    if not options.configs:
        trained.check_cache(cache)
    normal = [label for label in labels if not label.is_abnormal and label.split == "val"]
    if not normal:
        raise ModelError(
            "the labels name no normal video with split 'val', to which a threshold is fitted; "
            "give it to those that the run has not learnt from"
        )
    data = trained.load_features(
        cache, choose_videos(cache, normal, "val", trained.options(options)), options.configs
    )
    learnt = {item for one in trained.checkpoints for item in one.info.train_videos.items()}
    names, contents = {name for name, _ in learnt}, {content for _, content in learnt}
    used = [
        label.video
        for label, content in zip(data.labels, data.sha256, strict=True)
        if label.video in names or content in contents
    ]
    if used:
        raise ModelError(
            f"{len(used)} val videos were used to train {run}: {named(used)}; their scores say "
            "nothing of other footage: take them out of the labels"
        )
    return normal_videos(trained.score_clips_alone(data), data)
