import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner

from data.commands.prepare import data_group
from data.datasets.avenue import prepare_avenue
from data.errors import LabelsError
from data.labels import read_labels


def write_mask(path: Path, frames: list[int]) -> None:
    cells = np.empty((1, len(frames)), dtype=object)
    for i, abnormal in enumerate(frames):
        cells[0, i] = np.zeros((4, 6), dtype=np.uint8)
        cells[0, i][1, 2] = abnormal
    scipy.io.savemat(path, {"volLabel": cells})


@pytest.fixture
def avenue(tmp_path: Path) -> Path:
    for folder, count in (("training_videos", 2), ("testing_videos", 3)):
        (tmp_path / folder).mkdir()
        for i in range(1, count + 1):
            (tmp_path / folder / f"{i:02d}.avi").write_bytes(b"video")
    masks = tmp_path / "ground_truth_demo/testing_label_mask"
    masks.mkdir(parents=True)
    write_mask(masks / "1_label.mat", [0, 1, 1, 0, 1])
    write_mask(masks / "2_label.mat", [0, 0, 0])
    write_mask(masks / "3_label.mat", [1, 1])
    return tmp_path


def test_a_frame_is_abnormal_if_a_pixel_of_its_mask_is(avenue: Path) -> None:
    prepared = prepare_avenue(avenue, split="official")
    assert [(x.video, x.split, x.anomaly, x.num_frames) for x in prepared.labels] == [
        ("training_videos/01.avi", "train", "", None),
        ("training_videos/02.avi", "train", "", None),
        ("testing_videos/01.avi", "test", "1:3;4:5", 5),
        ("testing_videos/02.avi", "test", "", 3),
        ("testing_videos/03.avi", "test", "0:2", 2),
    ]
    assert [p.split(";")[0] for p in prepared.problems] == [
        "avenue (masks): 2 training videos found, 16 published",
        "avenue (masks): 3 test videos found, 21 published",
        "avenue (masks): 5 abnormal test frames found, 3712 published",
    ]


def test_the_child_that_reads_masks_ends_without_a_word(avenue: Path) -> None:
    """As a process of its own: only then is the child ended by a signal."""
    program = "import sys; from feat import main; sys.argv[0] = 'feat'; main()"
    words = ["data", "avenue", "--root", str(avenue), "--out", str(avenue / "l.csv"), "--partial"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 3
    assert all(line.startswith("warning: avenue (masks): ") for line in done.stderr.splitlines())


@pytest.mark.parametrize("form", ["mat", "npy"])
def test_the_list_convention_in_both_its_forms(avenue: Path, tmp_path: Path, form: str) -> None:
    if form == "mat":  # starts above, ends below; from 1, end included
        cells = np.empty((1, 3), dtype=object)
        cells[0, 0], cells[0, 1], cells[0, 2] = (
            np.array([[1, 4], [2, 5]]),
            np.empty((2, 0)),
            [[2], [2]],
        )
        scipy.io.savemat(avenue / "avenue.mat", {"gt": cells})
    else:
        flat = np.array([[1, 1, 0, 1, 1, 0, 0, 0, 0, 1]])
        np.save(avenue / "frame_labels_avenue.npy", flat)
    out = tmp_path / "labels.csv"
    arguments = ["avenue", "--root", str(avenue), "--out", str(out), "--split", "official"]
    result = CliRunner().invoke(data_group, [*arguments, "--convention", "list", "--partial"])
    assert result.exit_code == 0, result.output
    assert "avenue (list): 5 abnormal test frames found, 3867 published" in result.stderr
    assert [x.anomaly for x in read_labels(out)] == ["", "", "0:2;3:5", "", "1:2"]


def test_lists_that_do_not_fit_are_refused(avenue: Path) -> None:
    np.save(avenue / "frame_labels_avenue.npy", np.zeros((1, 11)))
    with pytest.raises(LabelsError, match="11 frames, expected 10, those of all"):
        prepare_avenue(avenue, convention="list")
    cells = np.empty((1, 3), dtype=object)
    cells[0, 0], cells[0, 1], cells[0, 2] = [[1], [2]], [[1], [4]], [[1], [2]]
    scipy.io.savemat(avenue / "avenue.mat", {"gt": cells})
    with pytest.raises(LabelsError, match="video 2 is abnormal from 1 to 4, but has 3 frames"):
        prepare_avenue(avenue, convention="list")


@pytest.mark.parametrize(
    "cell", [np.array([[1, 2, 3]]), "text", np.ones((3, 2)), [[np.inf], [2]], [[2], [1]]]
)
def test_a_damaged_cell_of_the_list_is_named(avenue: Path, cell: object) -> None:
    cells = np.empty((1, 3), dtype=object)
    cells[0, 0], cells[0, 1], cells[0, 2] = [[1], [2]], cell, [[1], [2]]
    scipy.io.savemat(avenue / "avenue.mat", {"gt": cells})
    with pytest.raises(LabelsError, match=r"avenue\.mat: .*video 2 is"):
        prepare_avenue(avenue, convention="list")


def test_a_mask_of_text_is_refused(avenue: Path) -> None:
    cells = np.empty((1, 1), dtype=object)
    cells[0, 0] = "text"
    scipy.io.savemat(
        avenue / "ground_truth_demo/testing_label_mask/2_label.mat", {"volLabel": cells}
    )
    with pytest.raises(LabelsError, match=r"2_label\.mat: volLabel holds something else"):
        prepare_avenue(avenue)


def test_a_number_stands_for_one_video_and_one_mask(avenue: Path) -> None:
    write_mask(avenue / "3_label.mat", [1, 1])  # a copy says the same
    prepare_avenue(avenue)
    write_mask(avenue / "3_label.mat", [1, 0])
    with pytest.raises(LabelsError, match=r"3_label\.mat: another file of this number"):
        prepare_avenue(avenue)
    (avenue / "testing_videos/1.avi").write_bytes(b"video")
    with pytest.raises(LabelsError, match=r"1\.avi and .*1\.avi both have the number 1"):
        prepare_avenue(avenue)


def test_missing_masks_and_videos_are_listed(avenue: Path) -> None:
    (avenue / "testing_videos/02.avi").unlink()
    (avenue / "ground_truth_demo/testing_label_mask/1_label.mat").unlink()
    prepared = prepare_avenue(avenue, split="official")
    assert prepared.problems[0].startswith("1 masks without a test video: 2")
    assert prepared.problems[1].startswith("1 test videos without a mask: testing_videos/01.avi")
    assert [x.video for x in prepared.labels if x.split == "test"] == ["testing_videos/03.avi"]


def test_halves_are_those_of_the_paper(tmp_path: Path) -> None:
    for i in range(1, 22):
        write_mask(tmp_path / f"{i}_label.mat", [0, 1])
    labels = prepare_avenue(tmp_path, seed=4).labels
    train = [x for x in labels if x.split == "train"]
    assert (len(train), len(labels) - len(train)) == (19, 18)
    assert sum(not x.is_abnormal for x in train) == 8


@pytest.mark.slow  # 57 MB of masks
@pytest.mark.realdata
def test_real_masks_have_as_many_frames_as_the_videos(shared_data: Path) -> None:
    from data.videos import find_videos
    from extract.decode.config import DecodeConfig
    from extract.decode.open import open_video

    prepared = prepare_avenue(shared_data / "avenue", split="official")
    assert {x.video: x.num_frames for x in prepared.labels} == {"17.avi": 426, "21.avi": 76}
    # counted with scipy: frames with a non-zero pixel in 17_label.mat and 21_label.mat
    assert {x.video: sum(b - a for a, b in x.intervals) for x in prepared.labels} == {
        "17.avi": 384,
        "21.avi": 53,
    }
    sizes = {x.video: x.num_frames for x in prepared.labels}
    for source in find_videos(shared_data / "avenue"):
        with open_video(source, DecodeConfig(size=16)) as stream:
            while len(stream.read(64)[0]):
                pass
            assert stream.num_frames == sizes[source.video_id]
