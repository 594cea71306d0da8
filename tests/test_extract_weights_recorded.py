"""Weights found again by the digest that was recorded."""

import dataclasses
from pathlib import Path

import pytest

from data.errors import WeightsError
from extract.weights.fetch import RGB_SHA256
from extract.weights.resolve import (
    Weights,
    load_state_dict,
    resolve_recorded,
    resolve_weights,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def used(folder: Path, random_rgb_weights: Path) -> dict[str, Weights]:
    """What an extraction with a user's RGB file and cross-modality flow used."""
    return resolve_weights(
        streams=("rgb", "flow"), rgb=str(random_rgb_weights), flow="crossmodal", folder=folder
    )


def without_files(used: dict[str, Weights]) -> dict[str, Weights]:
    return {k: dataclasses.replace(weights, path=Path()) for k, weights in used.items()}


def test_a_users_file_and_its_crossmodal_copy_are_found_in_the_folder(used, folder) -> None:
    found = resolve_recorded(without_files(used), folder=folder, allow_download=False)
    assert found == used
    assert found["flow"].kind == "crossmodal"
    kernels = [a.shape[:2] for a in load_state_dict(found["flow"]).values() if a.ndim == 5]
    assert (64, 2) in kernels  # x and y; (64, 3) in the RGB network
    assert (64, 3) not in kernels


def test_the_file_itself_serves_where_the_folder_lacks_it(used, random_rgb_weights, tmp_path):
    found = resolve_recorded(
        without_files(used), rgb_file=random_rgb_weights, folder=tmp_path, allow_download=False
    )
    for stream, weights in found.items():
        assert weights.digest == used[stream].digest
        assert weights.path.parent == tmp_path


def test_absent_weights_are_named_with_digest_and_option(used, tmp_path) -> None:
    with pytest.raises(WeightsError, match="--rgb-weights") as refused:
        resolve_recorded(without_files(used), folder=tmp_path, allow_download=False)
    assert used["rgb"].digest in str(refused.value)
    flow = Weights(stream="flow", kind="file", name="file:f", digest="f" * 64, path=Path())
    with pytest.raises(WeightsError, match=r"f{64}.*--flow-weights"):
        resolve_recorded({"flow": flow}, folder=tmp_path, allow_download=False)


def test_another_file_is_refused(used, random_rgb_weights, folder) -> None:
    other = dataclasses.replace(used["rgb"], digest="e" * 64)
    with pytest.raises(
        WeightsError, match=f"found rgb weights.*expected rgb weights of sha256 {'e' * 64}"
    ):
        resolve_recorded({"rgb": other}, rgb_file=random_rgb_weights, folder=folder)


def test_a_flow_file_is_no_use_for_crossmodal_flow(used, random_rgb_weights, folder) -> None:
    with pytest.raises(WeightsError, match="cross-modality copy of the RGB network"):
        resolve_recorded(
            without_files(used), flow_file=random_rgb_weights, folder=folder, allow_download=False
        )


def test_a_file_in_the_folder_that_is_not_what_its_name_says_is_refused(
    used, folder, tmp_path
) -> None:
    wanted = dataclasses.replace(used["rgb"], digest="e" * 64, path=Path())
    (tmp_path / f"rgb-{'e' * 16}.safetensors").write_bytes(used["rgb"].path.read_bytes())
    with pytest.raises(WeightsError, match=f"expected rgb weights of sha256 {'e' * 64}"):
        resolve_recorded({"rgb": wanted}, folder=tmp_path, allow_download=False)


@pytest.mark.parametrize(
    "wanted",
    [
        Weights(stream="rgb", kind="published", name="k", digest=RGB_SHA256, path=Path()),
        Weights(
            stream="flow",
            kind="published",
            name="kinetics400-flow-piergiaj",
            digest="a" * 64,
            path=Path(),
        ),
    ],
    ids=["rgb", "flow"],
)
def test_published_weights_are_not_fetched_when_that_is_forbidden(wanted, tmp_path) -> None:
    with pytest.raises(WeightsError, match=str(tmp_path)):
        resolve_recorded({wanted.stream: wanted}, folder=tmp_path, allow_download=False)
    assert not list(tmp_path.iterdir())
