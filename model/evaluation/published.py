"""The published evaluations by name, each beside the right one."""

from collections.abc import Sequence

from data.errors import ModelError
from model.evaluation.compat import CompatTable
from model.evaluation.one_class import DROPPED, compare_with_one_class
from model.evaluation.released import WindowMethod, compare_with_released
from model.evaluation.rtfm import compare_with_rtfm
from model.evaluation.snapshots import snapshot_runs
from model.features.load import FeatureSet
from model.measures.metrics import VideoResult
from model.measures.scores import video_results
from model.runs.trained import TrainedRun


def check_published(compat: str, trained: TrainedRun) -> None:
    """Refuse a run that a published evaluation cannot be made of.

    Raises:
        ModelError: a run without windows is to be evaluated as released.
    """
    if compat == "released" and not isinstance(trained.info.method, WindowMethod):
        raise ModelError(
            f"{trained.path}: the published evaluation is one of windows of clips, which "
            f"{trained.info.method.name} does not have; leave --compat out"
        )


def compare_with_published(
    compat: str,
    trained: TrainedRun,
    data: FeatureSet,
    results: Sequence[VideoResult],
    *,
    smoothing: float | None,
    drop_first: int | None,
) -> CompatTable:
    """Return the table of a published evaluation.

    Args:
        compat: which, of `TITLES`.
        trained: the run, which `check_published` has let pass.
        data: the videos.
        results: of the run, of these videos.
        smoothing: as of `TrainedRun.score`, for the run's snapshots.
        drop_first: frames that one-class papers leave out; None: as many as they do.

    Raises:
        ModelError: a video has no more frames than are to be dropped.
    """
    if compat == "one-class":
        looks = {
            int(one.info.result["step"]): video_results(one.score(data, smoothing=smoothing), data)
            for one in snapshot_runs(trained)
        }
        dropped = DROPPED if drop_first is None else drop_first
        return compare_with_one_class(results, looks, drop_first=dropped)
    if compat != "released":
        return compare_with_rtfm(results, data)
    (one,) = trained.checkpoints
    method = one.info.method
    assert isinstance(method, WindowMethod)
    return compare_with_released(
        lambda rows, mask: method.score_windows(one.fitted, data, rows, mask, trained.device),
        method.num_clips,
        data,
        one.info.categories,
    )
