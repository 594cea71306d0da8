"""A few of the damaged files and kills that `python -m bench.faults` has by the thousand."""

import random
import re
from pathlib import Path

import pytest

from bench.faults.kills import run_extract_kills, run_train_kills
from bench.faults.mutants import BYTES, run_mutants
from bench.faults.mutate import mutate


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *(("videos", 6), ("labels", 15), ("arrays", 6)),
        pytest.param("runs", 100, marks=pytest.mark.slow),
        pytest.param("weights", 25, marks=pytest.mark.slow),
    ],
)
def test_damage_is_refused_or_harmless(tmp_path, kind: str, count: int) -> None:
    outcome = run_mutants(kind, count=count, seed=7, work=tmp_path)
    assert outcome.faults == []
    assert outcome.counts["refused"] > count / 8
    assert sum(outcome.counts.values()) == count
    assert 0 < outcome.peak_bytes < BYTES


@pytest.mark.slow
@pytest.mark.parametrize("run_kills", [run_extract_kills, run_train_kills])
def test_kills_lose_nothing_and_leave_no_process(tmp_path, run_kills) -> None:
    outcome = run_kills(count=4, seed=7, work=tmp_path)
    assert outcome.faults == []
    assert outcome.counts["killed"] == 4


def test_damage_is_drawn_from_the_seed_and_never_none() -> None:
    data = b"video,split,category,anomaly\na.mp4,train,,5:9\n" * 4
    for text in (False, True):
        first = [mutate(data, random.Random(n), text=text) for n in range(300)]
        assert first == [mutate(data, random.Random(n), text=text) for n in range(300)]
        assert data not in first
        assert len(set(first)) > 200


def test_the_page_names_tests_that_there_are() -> None:
    tests = Path(__file__).parent
    page = (tests.parent / "docs" / "RELIABILITY.md").read_text()
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 15
    for file, test in named:
        assert re.search(rf"^def {test}", (tests / file).read_text(), re.MULTILINE), (file, test)
