"""Is the folder that a command is to fill new, ours or somebody else's?"""

import os
from pathlib import Path

import pytest

from data.errors import FeatError, ModelError
from data.output_folder import claim_folder


def test_a_new_or_empty_folder_is_made_and_is_not_ours_yet(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    assert claim_folder(path, marker="seeds.json", kind="several seeds") is False
    assert path.is_dir()
    assert claim_folder(path) is False


@pytest.mark.parametrize("marker", ["ablation.json", "*.json", "*/ablation.json"])
def test_the_marker_makes_it_ours(tmp_path: Path, marker: str) -> None:
    where = tmp_path / "half" if "/" in marker else tmp_path
    where.mkdir(exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FeatError, match="neither empty nor an ablation"):
        claim_folder(tmp_path, marker=marker, kind="an ablation")
    (where / "ablation.json").write_text("{}")
    assert claim_folder(tmp_path, marker=marker, kind="an ablation") is True
    with pytest.raises(FeatError, match="not empty"):
        claim_folder(tmp_path)


def test_what_is_somebody_elses_is_named_and_left_alone(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ModelError) as caught:
        claim_folder(tmp_path, marker="seeds.json", kind="a folder of seeds", error=ModelError)
    assert str(caught.value) == (
        f"{tmp_path}: neither empty nor a folder of seeds (found a.jpg); "
        "name a new folder with --out"
    )
    with pytest.raises(FeatError, match=r"not empty \(found a\.jpg\); give another$"):
        claim_folder(tmp_path, advice="give another")
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "b.jpg"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"mine")
    with pytest.raises(FeatError, match=r"out: a file, expected a folder; name a new folder"):
        claim_folder(path)
    with pytest.raises(FeatError, match=r"out/deep: cannot be used as a folder: Not a directory"):
        claim_folder(path / "deep")
    assert path.read_bytes() == b"mine"
