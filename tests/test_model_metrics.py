"""The measures against counts made by hand."""

import numpy as np
import pytest

from model.measures.metrics import VideoResult, compute_metrics, confusion


def result(video, scores, labels=None, category="", predicted=""):
    return VideoResult(
        video=video,
        scores=np.array(scores, dtype=np.float64),
        labels=None if labels is None else np.array(labels, np.uint8),
        category=category,
        predicted=predicted,
    )


def measures(*results, categories=()):
    return compute_metrics(results, categories)


MIXED = result("a", [0.1, 0.8, 0.4, 0.6], [0, 1, 1, 0])
NORMAL = result("b", [0.2, 0.5, 0.7], [0, 0, 0])


def test_auc_counts_pairs_of_an_abnormal_and_a_normal_frame():
    found = measures(MIXED, NORMAL).values
    # 0.8 beats 0.1 0.6 0.2 0.5 0.7 and 0.4 beats 0.1 0.2: 7 of 10 pairs
    assert found["auc"] == pytest.approx(0.7)
    # in the abnormal video alone 0.8 beats both and 0.4 one: 3 of 4
    assert found["auc_abnormal"] == pytest.approx(0.75)
    assert found["auc_macro"] == pytest.approx(0.75)


def test_ties_count_half():
    assert measures(result("a", [0.5, 0.5], [0, 1])).values["auc"] == 0.5


def test_average_precision_by_hand():
    # in the order of the scores: 0.8 (hit, precision 1) 0.7 0.6 0.5 0.4 (hit, 2 of 5)
    assert measures(MIXED, NORMAL).values["ap"] == pytest.approx((1.0 + 0.4) / 2)


def test_false_alarms_are_frames_of_normal_videos_at_or_above_the_threshold():
    assert measures(MIXED, NORMAL).values["far"] == pytest.approx(2 / 3)  # 0.5 and 0.7 of three


def test_macro_auc_leaves_out_videos_of_one_kind():
    perfect = result("c", [0.0, 1.0], [0, 1])
    all_abnormal = result("d", [0.0, 0.0], [1, 1])
    found = measures(MIXED, NORMAL, perfect, all_abnormal)
    assert found.values["auc_macro"] == pytest.approx((0.75 + 1.0) / 2)
    assert found.counts["num_macro_videos"] == 2


def test_one_kind_of_frame_gives_none_and_the_reason():
    found = measures(NORMAL)
    assert found.values["auc"] is None
    assert found.values["ap"] is None
    assert found.values["auc_abnormal"] is None
    assert found.values["auc_macro"] is None
    assert found.values["far"] == pytest.approx(2 / 3)
    assert found.reasons["auc"] == "no abnormal frame"
    found = measures(result("a", [0.1], [1]))
    assert found.values["far"] is None
    assert found.reasons["far"] == "no normal video"
    assert found.reasons["auc"] == "all frames are abnormal"
    assert found.values["ap"] == 1.0


def test_no_video_at_all():
    found = measures()
    assert set(found.values.values()) == {None}
    assert found.counts["num_frames"] == 0


def test_weak_videos_count_for_the_category_only():
    weak = result("w", [1.0, 1.0], None, category="fall", predicted="fall")
    found = measures(MIXED, NORMAL, weak, categories=("fall",))
    assert found.values["auc"] == pytest.approx(0.7)
    assert found.values["far"] == pytest.approx(2 / 3)
    assert found.values["accuracy_video"] == 1.0
    assert found.counts["num_weak_videos"] == 1
    assert found.counts["num_frames"] == 9


def test_accuracy_counts_videos_and_takes_an_unknown_category_for_wrong():
    videos = [
        result("a", [0.1] * 1000, [0] * 1000, category="run", predicted="fall"),
        result("b", [0.1], [0], category="fall", predicted="fall"),
        result("c", [0.1], [0], category="fire", predicted="run"),
        result("d", [0.1], [0], category="", predicted="run"),
    ]
    found = measures(*videos, categories=("fall", "run"))
    assert found.values["accuracy_video"] == pytest.approx(1 / 3)
    assert found.counts["num_unknown_category_videos"] == 1
    assert measures(*videos).values["accuracy_video"] is None


def test_confusion_rows_are_the_truth():
    names, counts = confusion(
        [
            result("a", [0.0], [0], category="run", predicted="fall"),
            result("b", [0.0], [0], category="run", predicted="run"),
            result("c", [0.0], [0], category="fall", predicted="fall"),
            result("d", [0.0], [0]),
        ]
    )
    assert names == ["fall", "run"]
    assert counts.tolist() == [[1, 0], [1, 1]]


def test_one_category_alone_is_counted_without_a_warning():
    videos = [result(name, [0.0], [0], category="run", predicted="run") for name in "ab"]
    names, counts = confusion(videos)
    assert names == ["run"]
    assert counts.tolist() == [[2]]


def test_scores_and_labels_of_different_length_are_refused():
    with pytest.raises(ValueError, match="3 scores for 2 frame labels"):
        result("a", [0.0] * 3, [0] * 2)
