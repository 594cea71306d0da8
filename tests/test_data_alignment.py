import json

import numpy as np
import pytest

from data.annotation.alignment import Finding, VideoFacts, check_alignment
from data.labels import VideoLabel
from data.times import parse_span


def row(video: str, split: str = "train", intervals=(), **fields) -> VideoLabel:
    extent = fields.pop("extent", "intervals" if intervals else "normal")
    return VideoLabel(video=video, split=split, extent=extent, intervals=intervals, **fields)


def check_one(label: VideoLabel, **facts) -> list[Finding]:
    """The findings about one video, beside two sound ones that keep the balance."""
    others = [row("other1", intervals=((0, 1),)), row("other2"), row("t1", "test", ((0, 1),))]
    others.append(row("t2", "test"))
    known = {x.video: VideoFacts(num_frames=10) for x in others}
    known[label.video] = VideoFacts(**facts)
    report = check_alignment([label, *others], known)
    assert report.num_aligned == 5 - len(report.errors)
    return list(report.findings)


def test_labels_that_fit_have_no_findings() -> None:
    assert check_one(row("v", intervals=((3, 10),)), num_frames=10) == []
    assert check_one(row("v", intervals=((3, 10),), num_frames=10), num_frames=10) == []
    assert check_one(row("v", extent="all"), num_frames=3) == []


# label, decoded -> level and kind
CAUSES = [
    (row("v", num_frames=181), {"num_frames": 180}, ("warning", "off by one")),
    (row("v", num_frames=180), {"num_frames": 181}, ("warning", "off by one")),
    (
        row("v", intervals=((5, 181),), num_frames=181),
        {"num_frames": 180},
        ("error", "off by one"),
    ),
    (row("v", intervals=((5, 181),)), {"num_frames": 180}, ("error", "off by one")),
    (row("v", intervals=((5, 190),)), {"num_frames": 180}, ("error", "outside")),
    (row("v", num_frames=300), {"num_frames": 250}, ("error", "resampled")),  # 30 -> 25
    (
        row("v", num_frames=101),
        {"num_frames": 203},
        ("error", "resampled"),
    ),  # 30 -> 60, a frame off
    (row("v", num_frames=1000), {"num_frames": 731}, ("error", "truncated")),
    (row("v", num_frames=1000), {"num_frames": 1731}, ("error", "longer")),
    (
        row("v", num_frames=300),
        {"num_frames": 250, "partial": "moov atom not found"},
        ("error", "truncated"),
    ),
    (
        row("v", num_frames=300),
        {"num_frames": 77, "resampled_to": 5.0},
        ("error", "resampled"),
    ),
    (
        row("v", intervals=((3, 9),)),
        {"num_frames": 77, "resampled_to": 5.0},
        ("warning", "resampled"),
    ),
    (row("v"), {"num_frames": 77, "partial": "moov atom not found"}, ("warning", "partial")),
]


@pytest.mark.parametrize(("label", "facts", "expected"), CAUSES)
def test_each_cause_is_named_as_such(
    label: VideoLabel, facts: dict, expected: tuple[str, str]
) -> None:
    findings = check_one(label, **facts)
    assert [(x.level, x.kind, x.video) for x in findings] == [(*expected, "v")]
    if facts.get("partial"):
        assert "moov atom not found" in findings[0].message


def test_the_rates_of_a_resampled_set_are_told() -> None:
    labels = [row(str(i), num_frames=1000 + 30 * i) for i in range(6)]
    facts = {str(i): VideoFacts(num_frames=(1000 + 30 * i) * 25 // 30) for i in range(6)}
    report = check_alignment(labels, facts)
    assert {x.kind for x in report.errors} == {"resampled"}
    assert "as if 30 frames a second had become 25" in report.errors[0].message


def test_a_cut_that_happens_to_be_a_ratio_of_rates_is_still_a_cut() -> None:
    """One of five videos has half its frames by chance, the other cuts are arbitrary."""
    lengths = [(1000, 500), (1000, 731), (1000, 377), (1000, 591), (1000, 873)]
    labels = [row(str(i), num_frames=old) for i, (old, _) in enumerate(lengths)]
    facts = {str(i): VideoFacts(num_frames=new) for i, (_, new) in enumerate(lengths)}
    assert {x.kind for x in check_alignment(labels, facts).errors} == {"truncated"}


def kinds(labels: list[VideoLabel], facts=None, **options) -> list[tuple[str, str]]:
    facts = facts or {x.video: VideoFacts(num_frames=100) for x in labels}
    return [(x.level, x.kind) for x in check_alignment(labels, facts, **options).findings]


BALANCED = [
    row("a", intervals=((0, 1),), category="Fire"),
    row("b", category="Fire"),
    row("c", "test", ((0, 1),), category="Fire"),
    row("d", "test"),
]


def test_missing_and_unlabelled_videos() -> None:
    facts = {x.video: VideoFacts(num_frames=100) for x in BALANCED}
    del facts["a"]
    facts["z"] = VideoFacts(num_frames=5)
    assert kinds(BALANCED, facts) == [("error", "missing"), ("warning", "unlabelled")]


def test_leaks_and_copies() -> None:
    facts = {x.video: VideoFacts(num_frames=100, sha256=x.video) for x in BALANCED}
    facts["c"] = VideoFacts(num_frames=100, sha256="a")
    assert kinds(BALANCED, facts) == [("error", "leak"), ("warning", "duplicate")]
    facts["c"] = VideoFacts(num_frames=100, sha256="d")
    assert kinds(BALANCED, facts) == [("warning", "duplicate")]
    scenes = [row(x.video, x.split, x.intervals, scene="s") for x in BALANCED]
    assert kinds(scenes) == [("warning", "shared scene")]


def test_categories() -> None:
    assert kinds(BALANCED, categories=["Fire"]) == []
    assert kinds(BALANCED, categories=["Crash"]) == [("warning", "category")]
    assert kinds([*BALANCED, row("e", "test", category="fire")]) == [("warning", "category")] * 2


def test_balance() -> None:
    assert kinds(BALANCED[:2]) == [("warning", "split")]
    assert kinds([*BALANCED[1:]]) == [("warning", "balance")]
    many = [row(f"n{i}") for i in range(10)]
    assert kinds([*BALANCED, *many]) == [("warning", "balance")]
    fires = [row(f"f{i}", intervals=((0, 1),), category="Fire") for i in range(8)]
    assert kinds([*BALANCED, row("e", category="Crash"), *fires]) == [("warning", "balance")]
    weak = [*BALANCED, row("w", "test", extent="unknown")]
    assert kinds(weak) == [("warning", "weak")]


def test_a_report_as_plain_values() -> None:
    labels = [*BALANCED, row("v", num_frames=1000)]
    facts = {x.video: VideoFacts(num_frames=100) for x in labels}
    report = check_alignment(labels, facts)
    assert str(report.errors[0]).startswith("error (truncated): v: labels for 1000")
    plain = json.loads(json.dumps(report.to_dict()))
    assert (plain["videos"], plain["aligned"]) == (5, 4)
    assert plain["errors"][0]["video"] == "v"
    assert check_alignment(BALANCED, facts).errors == []


def in_seconds(*spans: str, **fields) -> VideoLabel:
    return row("v", times=tuple(filter(None, map(parse_span, spans))), extent="intervals", **fields)


def test_times_become_the_frames_of_the_decoded_video() -> None:
    seconds = np.array([0.0, 0.5, 0.6, 2.0])
    label = in_seconds("0.5s:0.7s", num_frames=4)
    report = check_alignment([label], {"v": VideoFacts(num_frames=4, frame_seconds=seconds)})
    assert report.errors == []
    assert [x.intervals for x in report.labels] == [((1, 3),)]
    assert check_one(label, num_frames=4, frame_seconds=seconds) == []


SECONDS = {"num_frames": 50, "frame_seconds": np.arange(50) / 10}


@pytest.mark.parametrize(
    ("label", "facts", "kind", "message"),
    [
        (in_seconds("1s:7s"), SECONDS, "outside", "'1s:7s' ends after the video, at 0:00:05.000"),
        (in_seconds("8s:9s"), SECONDS, "outside", "no frame appears in 8s:9s"),
        (in_seconds("1s:2s"), {"num_frames": 50}, "no times", "'1s:2s' is in seconds, but when"),
    ],
)
def test_times_that_do_not_fit_are_errors(label, facts, kind, message) -> None:
    (finding,) = check_one(label, **facts)
    assert (finding.level, finding.kind, finding.video) == ("error", kind, "v")
    assert message in finding.message


@pytest.mark.parametrize(
    ("anomaly", "labelled", "expected", "intervals"),
    [
        ("2s:5s", 49, ("warning", "off by one"), ((20, 49),)),
        ("2s:5s", 50, None, ((20, 50),)),
        ("2s:5s", 51, ("warning", "off by one"), ((20, 50),)),
        ("2s:5s", 45, ("error", "longer"), ((20, 45),)),
        ("4.9s:5s", 49, ("error", "outside"), ()),  # its only frame is the one too many
    ],
)
def test_an_end_in_seconds_is_judged_as_one_in_frames(
    anomaly, labelled, expected, intervals
) -> None:
    label = in_seconds(anomaly, num_frames=labelled)
    findings = check_one(label, **SECONDS)
    assert [(x.level, x.kind) for x in findings[:1]] == ([expected] if expected else [])
    (row_,) = check_alignment([label], {"v": VideoFacts(**SECONDS)}).labels
    assert row_.intervals == intervals


def test_seconds_count_frames_of_a_video_that_was_resampled_to_more() -> None:
    label = in_seconds("2s:5s", num_frames=25)
    facts = VideoFacts(resampled_to=10.0, **SECONDS)
    report = check_alignment([label], {"v": facts})
    assert report.errors == []
    assert report.labels[0].intervals == ((20, 50),)


def test_a_length_that_a_player_rounds_up_is_no_error() -> None:
    assert check_one(in_seconds("1s:6s"), **SECONDS) == []


@pytest.mark.parametrize(
    ("label", "level"),
    [
        (in_seconds("1s:2s", num_frames=150), None),
        (row("v", num_frames=150, num_seconds=5.0), None),  # from a template
        (row("v", num_frames=150), "error"),
        (row("v", intervals=((3, 9),), num_frames=150, num_seconds=5.0), "error"),
    ],
)
def test_resampling_leaves_labels_in_seconds_right(label, level) -> None:
    findings = check_one(label, resampled_to=10.0, **SECONDS)
    assert [finding.level for finding in findings] == ([level] if level else [])


def test_a_missing_video_comes_with_the_name_that_may_be_meant() -> None:
    report = check_alignment([row("a/x.mp4")], {"b/x.mp4": VideoFacts(num_frames=5)})
    assert report.errors[0].message.endswith("did you mean b/x.mp4?")


def test_only_the_first_missing_videos_come_with_a_name() -> None:
    labels = [row(f"a/{i:03d}.mp4") for i in range(8)]
    report = check_alignment(labels, {f"b/{i:03d}.mp4": VideoFacts(num_frames=5) for i in range(8)})
    assert ["did you mean b/" in error.message for error in report.errors] == [True] * 5 + [
        False
    ] * 3
