"""Outputs that the user names: nothing else is lost to them, and the work waits for the check."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from model_cache import demo_rows, make_cache
from PIL import Image

from data.errors import FeatError
from data.labels import VideoLabel, write_labels
from data.output_file import check_folder, check_outputs, table
from feat import cli

ROWS = table(("a", "b"))
MINE = "whatever somebody has written by hand\n"


def feat(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """A folder of class folders with videos, their labels, and a file of another kind."""
    monkeypatch.chdir(tmp_path)
    for name in ("calm", "fight"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "clips" / name / f"{number}.mp4").write_bytes(b"")
    labels = [
        VideoLabel(video=f"{number}", split="train", extent="normal", num_frames=9)
        for number in range(4)
    ]
    for name in ("labels.csv", "again.csv"):
        write_labels(tmp_path / name, labels)
    (tmp_path / "mine").write_text(MINE)
    (tmp_path / "frames").mkdir()
    for number in range(17):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / "frames" / f"{number}.png")
    return tmp_path


COMMANDS = {
    "folders": ["data", "folders", "--root", "clips", "--normal", "calm", "--folds", "2", "--out"],
    "split": ["data", "split", "--labels", "labels.csv", "--scheme", "halves", "--out"],
    "consensus": ["data", "consensus", "labels.csv", "again.csv", "--out"],
    "to-labels": ["data", "convert", "labels.csv"],
    "to-ucf": ["data", "convert", "labels.csv", "--to", "ucf"],
    "to-npy": ["data", "convert", "labels.csv", "--to", "npy"],
    "to-activitynet": ["data", "convert", "labels.csv", "--to", "activitynet", "--fps", "25"],
    "stats": ["data", "stats", "--labels", "labels.csv", "--plot"],
    "preview": ["preview", "frames", "--out"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_only_what_the_same_command_wrote_is_replaced(home: Path, command: list[str]) -> None:
    refused = feat(*command, "mine")
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: mine: is there and is not ")
    assert line.endswith("; name another file to write, or remove this one")
    assert (home / "mine").read_text() == MINE
    before = sorted(home.iterdir())
    blocked = feat(*command, "mine/new.png")
    assert blocked.exit_code == 1
    assert blocked.stderr == "error: mine: a file, expected a folder; name another place to write\n"
    assert sorted(home.iterdir()) == before
    for _ in range(2):
        done = feat(*command, "made/new.png")
        assert done.exit_code == 0, done.output
    assert (home / "made" / "new.png").stat().st_size


def test_what_a_spreadsheet_or_a_longer_list_left_is_replaced(home: Path) -> None:
    text = (home / "again.csv").read_text()
    quoted = text.replace("video,split", '"video";"split"', 1).replace(",", ";")
    for data in (text.encode("utf-8-sig").replace(b"\n", b"\r\n"), quoted.encode("utf-16")):
        (home / "saved.csv").write_bytes(data)
        done = feat(*COMMANDS["split"], "saved.csv")
        assert done.exit_code == 0, done.output
    assert feat(*COMMANDS["to-ucf"], "list.txt").exit_code == 0
    (home / "labels.csv").write_text("video,split,category,anomaly,frames\nx,train,,,9\n")
    done = feat(*COMMANDS["to-ucf"], "list.txt")
    assert done.exit_code == 0, done.output
    assert (home / "list.txt").read_text().startswith("x  Normal")


def test_completing_a_line_makes_nothing(home: Path) -> None:
    with click.Context(cli) as ctx:
        command = cli.get_command(ctx, "data").get_command(ctx, "folders")
    command.make_context("folders", ["--out", "deep/new.csv"], resilient_parsing=True)
    assert not (home / "deep").exists()


def test_what_is_read_is_not_written_over(home: Path) -> None:
    before = (home / "frames" / "3.png").read_bytes()
    refused = feat("preview", "frames", "--out", "frames/3.png")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: frames/3.png: is read here and would be written over")
    assert (home / "frames" / "3.png").read_bytes() == before


def test_masks_are_not_written_over_arrays_of_another_kind(home: Path) -> None:
    done = feat(
        "cache", "export", "--cache", make_cache(home / "c", demo_rows()).path, "--out", "npy"
    )
    assert done.exit_code == 0, done.output
    (array, *_) = sorted((home / "npy").rglob("*.npy"))
    before = array.read_bytes()
    name = array.relative_to(home / "npy").with_suffix("").as_posix()
    write_labels(
        Path("one.csv"), [VideoLabel(video=name, split="test", extent="all", num_frames=9)]
    )
    refused = feat("data", "convert", "one.csv", "npy", "--to", "masks")
    assert refused.exit_code == 1
    assert f"npy/{name}.npy: is there and is not an array of one byte a frame" in refused.stderr
    assert array.read_bytes() == before
    for _ in range(2):
        assert feat("data", "convert", "one.csv", "masks", "--to", "masks").exit_code == 0
    refused = feat("cache", "export", "--cache", "c", "--out", "masks")
    assert f"masks/{name}.npy: is there and is not an array of features" in refused.stderr
    assert feat("cache", "export", "--cache", "c", "--out", "npy").exit_code == 0


def test_an_empty_file_is_of_any_kind_and_a_folder_of_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "same").write_text("a,b,c\n1,2,3\n")
    check_outputs({tmp_path / "empty": ROWS, tmp_path / "same": ROWS, tmp_path / "new": ROWS})
    (tmp_path / "folder").mkdir()
    with pytest.raises(FeatError, match="folder: is there and is not a table with the columns a,b"):
        check_outputs({tmp_path / "folder": ROWS})
    with pytest.raises(FeatError, match="cannot be used as a file: File name too long"):
        check_outputs({tmp_path / ("x" * 300): ROWS})


def test_a_folder_is_looked_at_without_a_trace(tmp_path: Path) -> None:
    check_folder(tmp_path / "deep" / "deeper")
    assert not list(tmp_path.iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(FeatError, match="link: a file, expected a folder; copy it"):
        check_folder(tmp_path / "link" / "below", advice="copy it")
    with pytest.raises(FeatError, match=r"^/proc/x: cannot be written: .+; name another place"):
        check_folder(Path("/proc/x"))
