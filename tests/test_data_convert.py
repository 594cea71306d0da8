import json
import pickle
import string
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from data.annotation.convert import read_format, write_format
from data.commands.prepare import data_group
from data.errors import LabelsError
from data.labels import VideoLabel, read_labels, write_labels

names = st.text(string.ascii_lowercase + string.digits + "_-=", min_size=1, max_size=8)


@st.composite
def known_label(draw: st.DrawFn, video: str) -> VideoLabel:
    """A label whose frames are known."""
    num_frames = draw(st.integers(1, 500))
    edges = sorted(draw(st.lists(st.integers(0, num_frames), unique=True, max_size=8)))
    # apart by a frame or more: touching intervals are one interval in a mask
    intervals = tuple(zip(edges[::2], edges[1::2], strict=False))
    return VideoLabel(
        video=video,
        split=draw(st.sampled_from(["train", "val", "test"])),
        category=draw(st.sampled_from(["", "Fire", "CarAccident"])),
        extent="intervals" if intervals else draw(st.sampled_from(["normal", "all"])),
        intervals=intervals,
        scene=draw(st.sampled_from(["", "s1"])),
        num_frames=num_frames,
    )


@st.composite
def label_sets(draw: st.DrawFn) -> list[VideoLabel]:
    stems = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    folders = draw(st.lists(st.sampled_from(["", "a/", "b/c/"]), min_size=5, max_size=5))
    return [
        draw(known_label(f"{folder}{stem}.mp4"))
        for stem, folder in zip(stems, folders, strict=False)
    ]


def frames(labels: list[VideoLabel]) -> dict[str, list[int]]:
    return {x.video: x.frame_labels(x.num_frames or 0).tolist() for x in labels}


@pytest.mark.parametrize("kind", ["labels", "ucf", "masks", "npy", "activitynet"])
@given(labels=label_sets(), fps=st.sampled_from([23.976, 24, 25, 29.97, 30, 12.5, 59.94, 7.3]))
@settings(max_examples=40)
def test_a_round_trip_loses_no_frame(kind: str, labels: list[VideoLabel], fps: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels"
        write_format(path, labels, kind, fps=fps)
        read = read_format(path, kind, fps=fps, like=labels)
    assert frames(read) == frames(labels)
    for before, after in zip(labels, read, strict=True):
        assert (before.video, before.split, before.category, before.scene, before.num_frames) == (
            (after.video, after.split, after.category, after.scene, after.num_frames)
        )


@given(labels=label_sets())
@settings(max_examples=40)
def test_activitynet_alone_keeps_everything(labels: list[VideoLabel]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.json"
        write_format(path, labels, "activitynet", fps=29.97)
        read = read_format(path, "activitynet")
    assert frames(read) == frames(labels)
    assert [(x.split, x.category, x.scene) for x in read] == [
        (x.split, x.category, x.scene) for x in labels
    ]


@given(st.integers(0, 10**7), st.floats(0.5, 1000))
def test_seconds_tell_the_frame(frame: int, fps: float) -> None:
    assert round(frame / fps * fps) == frame


LABELS = [
    VideoLabel(
        video="Fire/a.mp4",
        split="test",
        category="Fire",
        extent="intervals",
        intervals=((60, 180), (200, 221)),
        num_frames=250,
    ),
    VideoLabel(video="b.mp4", split="test", num_frames=10),
]


@pytest.mark.parametrize("kind", ["labels", "ucf", "masks", "npy", "activitynet"])
def test_the_source_of_frames_is_not_that_of_the_names(tmp_path: Path, kind: str) -> None:
    eve = [replace(label, source="eve") for label in LABELS]
    write_format(tmp_path / "labels", eve, kind, fps=25)
    like = [replace(label, source="ann") for label in LABELS]
    sources = {label.source for label in read_format(tmp_path / "labels", kind, like=like)}
    assert sources == {"eve" if kind == "labels" else ""}


def test_ucf_text_is_that_of_the_official_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    write_format(path, LABELS, "ucf")
    assert path.read_text() == (
        "Fire/a.mp4  Fire  61  180  201  221\nb.mp4  Normal  -1  -1  -1  -1\n"
    )
    from data.datasets.ucf_crime import read_marked_frames

    assert read_marked_frames(path)["a"] == (((60, 180), (200, 221)), None)


def test_masks_are_arrays_of_one_number_a_frame(tmp_path: Path) -> None:
    write_format(tmp_path / "masks", LABELS, "masks")
    mask = np.load(tmp_path / "masks/Fire/a.npy")
    assert (mask.shape, mask.dtype, int(mask.sum())) == ((250,), np.uint8, 141)
    assert np.load(tmp_path / "masks/b.npy").sum() == 0
    write_format(tmp_path / "flat.npy", LABELS, "npy")
    assert np.load(tmp_path / "flat.npy").shape == (260,)


def test_a_foreign_activitynet_file(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    video = {
        "subset": "validation",
        "duration": 20.0,
        "annotations": [
            {"segment": [2.0, 4.0], "label": "Fire"},
            {"segment": [3.98, 5.02], "label": "Fire"},
            {"segment": [9.0, 9.0], "label": "Fire"},
        ],
    }
    path.write_text(json.dumps({"version": "1.3", "database": {"v_x": video}}))
    (label,) = read_format(path, "activitynet", fps=25)
    assert (label.split, label.category) == ("val", "Fire")
    # 5.02 s is frame 125.5, 9.0 to 9.0 s one frame
    assert label.intervals in (((50, 126), (225, 226)), ((50, 125), (225, 226)))
    with pytest.raises(LabelsError, match="v_x: ValueError: frame rate unknown"):
        read_format(path, "activitynet")
    video["annotations"] = [{"segment": [20, 5], "label": "Fire"}]
    path.write_text(json.dumps({"database": {"v_x": video}}))
    with pytest.raises(LabelsError, match=r"v_x: ValueError: segment \[20.0, 5.0\] ends before"):
        read_format(path, "activitynet", fps=25)
    video["annotations"] = [{"label": "Fire"}]
    path.write_text(json.dumps({"database": {"v_x": video}}))
    with pytest.raises(LabelsError, match="v_x: KeyError: 'segment'"):
        read_format(path, "activitynet", fps=25)
    path.write_text("[]")
    with pytest.raises(LabelsError, match="expected JSON with an object 'database'"):
        read_format(path, "activitynet", fps=25)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('"annotations": [{"segment": [0, 1e999]}]', "v: OverflowError"),
        ('"annotations": [{"segment": [0, 1e308]}]', "v: OverflowError"),
        ('"annotations": [{"segment": [0, 1e99]}]', "v: FieldError: interval 0:.* ends after"),
        ('"num_frames": 1e999', "v: OverflowError"),
        ('"num_frames": 1e99', "v: FieldError: frames is"),
        ('"category": "\\ud800"', "v: FieldError: category is"),
        ('"category": ' + "[" * 9000, "expected JSON with an object 'database'"),
    ],
)
def test_damaged_activitynet_files_are_one_line(tmp_path: Path, entry: str, told: str) -> None:
    path = tmp_path / "in.json"
    path.write_text('{"database": {"v": {' + entry + "}}}")
    with pytest.raises(LabelsError, match=rf"in\.json: {told}"):
        read_format(path, "activitynet", fps=25)


@pytest.mark.parametrize("kind", ["ucf", "masks", "npy", "activitynet"])
def test_unknown_frames_cannot_be_written(tmp_path: Path, kind: str) -> None:
    weak = VideoLabel(video="w", split="train", extent="unknown")
    with pytest.raises(LabelsError, match=r"1 videos with unknown frames \('\?'\), w the first"):
        write_format(tmp_path / "out", [weak], kind, fps=25)
    assert not (tmp_path / "out").exists()


def test_what_a_format_needs_is_asked_for(tmp_path: Path) -> None:
    whole = VideoLabel(video="a b.mp4", split="train", extent="all")
    with pytest.raises(LabelsError, match="number of frames unknown, masks needs it"):
        write_format(tmp_path / "out", [whole], "masks")
    with pytest.raises(LabelsError, match="blank in name"):
        write_format(tmp_path / "out", [whole], "ucf")
    with pytest.raises(LabelsError, match="give the frame rate by --fps"):
        write_format(tmp_path / "out", LABELS, "activitynet")
    with pytest.raises(LabelsError, match="where does each video begin"):
        read_format(tmp_path / "out.npy", "npy")
    write_format(tmp_path / "flat.npy", LABELS, "npy")
    with pytest.raises(LabelsError, match="260 frames, expected 250"):
        read_format(tmp_path / "flat.npy", "npy", like=LABELS[:1])
    same = [VideoLabel(video=f"v.{end}", split="train", num_frames=1) for end in ("mp4", "avi")]
    with pytest.raises(LabelsError, match=r"both become v\.npy"):
        write_format(tmp_path / "masks", same, "masks")


def test_labels_that_do_not_fit_like_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("x/a.mp4 Fire 1 2\ny/a.mp4 Fire 1 2\nc.mp4 Normal -1 -1\n")
    beyond = [VideoLabel(video="c", split="test", num_frames=5)]
    for text, told in [
        ("c Fire 4 6", "c: .* goes to frame 6"),
        ("../c Fire 1 2", "video is '../c"),
    ]:
        (tmp_path / "beyond.txt").write_text(text)
        with pytest.raises(LabelsError, match=rf"beyond\.txt: {told}"):
            read_format(tmp_path / "beyond.txt", "ucf", like=beyond)
    with pytest.raises(LabelsError, match=r"Fire/a\.mp4: 2 of that name, (.|\n)*b\.mp4: not there"):
        read_format(path, "ucf", like=LABELS)


def test_the_command(tmp_path: Path) -> None:
    labels, masks = tmp_path / "labels.csv", tmp_path / "masks"
    write_labels(labels, LABELS)

    def convert(*arguments: object) -> None:
        result = CliRunner().invoke(data_group, ["convert", *map(str, arguments)])
        assert result.exit_code == 0, result.output

    convert(labels, masks, "--to", "masks")
    convert(masks, tmp_path / "out.json", "--from", "masks", "--to", "activitynet", "--fps", 25)
    convert(tmp_path / "out.json", tmp_path / "back.csv", "--from", "activitynet", "--like", labels)
    assert read_labels(tmp_path / "back.csv") == LABELS


@pytest.mark.realdata
def test_shanghaitechs_masks_survive_every_format(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "shanghaitech/test_frame_mask"
    labels = read_format(source, "masks")
    assert len(labels) == 107
    for kind in ("ucf", "masks", "npy", "activitynet"):
        write_format(tmp_path / kind, labels, kind, fps=24)
        assert read_format(tmp_path / kind, kind, like=labels) == labels
    for file in source.glob("*.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "masks" / file.name), np.load(file))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_boxes_become_frames(tmp_path: Path, protocol: int) -> None:
    """A sample stands for the frames up to the next one; those far apart leave a gap."""
    rows = {
        "Abuse001": [[f"a/Abuse001/image_{n:04d}.jpg", 1, 2, 30, 40] for n in (17, 33, 33, 97)],
        "Abuse002": [["b\\image_0001.jpg", 1.5, 2.0, 3.0, 4.0]],
        "Calm": [],
    }
    path = tmp_path / "boxes.pkl"
    path.write_bytes(pickle.dumps(rows, protocol=protocol))
    out = tmp_path / "labels.csv"
    arguments = ["convert", str(path), str(out), "--from", "boxes", "--split", "train"]
    result = CliRunner().invoke(data_group, arguments)
    assert result.exit_code == 0, result.output
    assert [(x.video, x.split, x.anomaly) for x in read_labels(out)] == [
        ("Abuse001", "train", "16:48;96:112"),
        ("Abuse002", "train", "0:1"),
        ("Calm", "train", ""),
    ]


def test_the_last_box_stands_for_no_frame_beyond_the_video(tmp_path: Path) -> None:
    path = tmp_path / "boxes.pkl"
    # images 1, 17, ..., 497 are frames 0, 16, ..., 496, the last for those up to 511
    path.write_bytes(pickle.dumps({"a": [[f"a/{n}.jpg", 1, 2, 3, 4] for n in range(1, 500, 16)]}))
    like = [VideoLabel(video="x/a.mp4", split="train", num_frames=500)]
    assert read_format(path, "boxes", like=like)[0].anomaly == "0:500"
    short = [replace(like[0], num_frames=496)]  # the last box itself is beyond its end
    with pytest.raises(LabelsError, match=r"boxes\.pkl: x/a\.mp4: .* 512, but frames is 496"):
        read_format(path, "boxes", like=short)


@pytest.mark.parametrize(
    "rows", [{"v": [[3, 4]]}, {"v": 7}, {"v": [["no number"]]}, {"v": [["0"]]}]
)
def test_boxes_of_another_form_are_refused(tmp_path: Path, rows: object) -> None:
    path = tmp_path / "boxes.pkl"
    path.write_bytes(pickle.dumps(rows))
    if rows == {"v": [[3, 4]]}:  # an image may be named by its number alone
        assert read_format(path, "boxes")[0].anomaly == "2:3"
        return
    with pytest.raises(LabelsError, match=r"boxes\.pkl: v: .*expected rows of an image's path"):
        read_format(path, "boxes")
    with pytest.raises(LabelsError, match="boxes are only read"):
        write_format(tmp_path / "out.pkl", [], "boxes")
