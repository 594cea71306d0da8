"""What others wrote acts on no terminal and in no spreadsheet, whichever command shows it."""

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cache import FeatureCache
from cache.records import check_video_name
from data.annotation import stats
from data.errors import CacheError
from data.files import write_rows
from data.labels import VideoLabel
from data.visible import from_cell, one_line, to_cell, visible
from feat import FeatGroup, StderrHandler, _add_debug_option, cli
from model.evaluation.results import read_results, write_scores
from model.measures.metrics import VideoResult
from predict.scoring import with_own_ids
from predict.sought import find_sought

EVIL = "\x1b]0;owned\x07\x9b31m\u202egpj.exe\r\udcff"


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Lu", "Ll", "So"])))
def test_nothing_is_left_that_acts(text) -> None:
    shown = one_line(text)
    shown.encode()  # no half of a surrogate pair either
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert not set("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(
        shown
    )
    assert visible(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text


def test_by_hand() -> None:
    assert visible("a\x1b[2J\tb\n") == "a\\x1b[2J\tb\n"
    assert one_line("a\nb\x9b\udcff") == "a\\nb\\u009b\\udcff"
    assert (
        visible("naïve 日本 👩‍🔬 می‌خواهم") == "naïve 日本 👩‍🔬 می‌خواهم"
    )  # joiners are letters' own


def test_json_stays_json() -> None:
    value = {"a": EVIL.replace("\udcff", "") + "\x7f"}
    assert json.loads(visible(json.dumps(value, ensure_ascii=False))) == value


@pytest.fixture
def group() -> click.Group:
    @click.group(cls=FeatGroup, context_settings={"color": True})
    def group() -> None: ...

    @group.command()
    @click.option("--how", required=True)
    def show(how: str) -> None:
        if how == "stdout":
            click.echo(f"name: {EVIL}")
        elif how == "traceback":
            raise CacheError(EVIL)
        elif how == "usage":
            raise click.UsageError(EVIL)
        elif how == "internal":
            raise KeyError(f"{EVIL}\nerror: forged")
        else:
            raise CacheError(EVIL)

    _add_debug_option(group)
    return group


@pytest.mark.parametrize("how", ["stdout", "usage", "internal", "error", "traceback"])
def test_every_way_out_of_a_command_shows_it(group, how) -> None:
    debug = ["--debug"] if how == "traceback" else []
    result = CliRunner().invoke(group, ["show", "--how", how, *debug])
    assert ("Traceback" in result.stderr) == bool(debug)
    assert not set(result.output) & set(EVIL[:1] + "\x07\x9b\u202e\r")
    assert "\\x1b" in result.output
    assert "\n" + "error: forged" not in result.output


def test_messages_show_it_and_names_begin_no_line(tmp_path: Path) -> None:
    FeatureCache.create(tmp_path / "cache")
    folder = tmp_path / "x\x1b]0;owned\x07\nerror: forged"
    folder.mkdir()
    (folder / "picture.jpg").write_bytes(b"x")
    (folder / "a.mp4").write_bytes(b"x")
    code = (
        "import logging, pathlib, feat, sys; feat.cli(['cache', 'ls', sys.argv[1]], "
        "standalone_mode=False); from data.videos import find_videos; "
        "find_videos(pathlib.Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "cache", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "x\\x1b]0;owned\\x07\\nerror: forged: 1 images beside videos are ignored" in line


def test_a_name_that_is_no_text_can_be_shown(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), b"\xff\x1b.mp4")
    with open(raw, "wb") as file:
        file.write(b"x")
    result = CliRunner().invoke(cli, ["cache", "ls", os.fsdecode(raw)])
    assert result.exit_code == 1
    assert "\\udcff\\x1b.mp4" in result.stderr


def test_videos_to_predict_may_have_any_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    raw = [b"\xff.mp4", b"two\nlines.mp4", b"\x1bred.mp4"]
    for name in raw:
        with open(name, "wb") as file:
            file.write(name)
    sought = find_sought([Path(os.fsdecode(name)) for name in raw])
    assert not any(each.error for each in sought)
    assert [each.name for each in sought] == ["\\udcff.mp4", "two\\nlines.mp4", "\\x1bred.mp4"]
    for name in with_own_ids([[each] for each in sought]):
        check_video_name(name)


# Spreadsheets

words = st.text(st.sampled_from("=+-@'\t aé1.e"), max_size=6)


@given(words)
def test_cells_come_back_and_none_is_a_formula(text) -> None:
    cell = to_cell(text)
    assert from_cell(cell) == text
    if len(cell) > 1 and cell[0] in "=+-@":
        float(cell)
    if text[:1] not in ("=", "+", "-", "@", "'"):
        assert cell == text


@pytest.mark.parametrize("value", [-1.5, -3, "-1.5", "+2e-05", "-", "", None, "a=b", "a.mp4"])
def test_numbers_and_plain_texts_stay(value) -> None:
    assert to_cell(value) == value


FORMULA = "=cmd|' /C calc'!A0.mp4"


def test_tables_of_experiments_hold_no_formula(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", [{"method": FORMULA, "auc": -0.5}])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"method": f"'{FORMULA}", "auc": "-0.5"}]


def test_statistics_hold_no_formula() -> None:
    labels = [VideoLabel(video="a.mp4", split="train", category="@SUM(A1)", extent="all")]
    table = stats.category_table(stats.video_stats(labels, {"a.mp4": 3}))
    assert "'@SUM(A1)," in stats.render_table(table, "csv")
    assert "'" not in stats.render_table(table, "text")


def test_results_hold_no_formula_and_are_read_back(tmp_path: Path) -> None:
    names = [FORMULA, "'quoted.mp4", "plain.mp4"]
    results = [
        VideoResult(
            video=name,
            scores=np.array([0.25, 0.5]),
            labels=np.array([0, 1], np.uint8),
            category="-x",
            predicted="+1+1",
        )
        for name in names
    ]
    write_scores(tmp_path, results)
    with (tmp_path / "videos.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == [f"'{FORMULA}", "''quoted.mp4", "plain.mp4"]
    again = read_results(tmp_path)
    assert [result.video for result in again] == names
    assert {(result.category, result.predicted) for result in again} == {("-x", "+1+1")}


def test_an_error_that_a_message_tells_of_begins_no_line(capsys) -> None:
    told = {"msg": "%s: %s, trying again", "args": ("s3://x", OSError("lost\nand found"))}
    StderrHandler().emit(logging.makeLogRecord(told))
    assert capsys.readouterr().err == "s3://x: lost\\nand found, trying again\n"
