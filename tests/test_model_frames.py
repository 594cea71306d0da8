"""Methods that look at pixels: their arithmetic, what they find, and that no video is opened."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from marks import quick_first
from model_cache import KilledError, add_video, clip_table, label
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cache import FeatureCache, FeatureRecord, SourceRecord
from cache.streams import FRAMES
from data.errors import ConfigError, ModelError
from data.labels import VideoLabel, write_labels
from feat import cli
from model.evaluation.evaluate import run_evaluation
from model.features.frames import FrameWindows, load_frames, network_frames
from model.methods.base import Material, Parameters
from model.methods.gather import DataOptions, gather
from model.methods.pixels import frames as frames_module
from model.methods.pixels.conv_ae import ConvAutoEncoder
from model.methods.pixels.frames import (
    FrameMethod,
    Stepper,
    from_the_first,
    multiplies_bfloat16,
    peak_ratio,
    take_step,
    windows_of,
)
from model.methods.pixels.mlep import MarginNetwork, MarginPrediction
from model.methods.pixels.mnad import MNAD, MemoryNetwork, weighted_error
from model.methods.pixels.ognet import OldIsGold
from model.methods.pixels.unet import FutureFrame, gradient_difference
from model.methods.registry import METHODS, choose_method
from model.network.unet import UNet
from model.runs.train import resume_training, run_training
from model.runs.trained import load_run
from model.training.names import network_weights, restore_training, training_tensors
from model.training.session import FitSession, SavedState, SavedStateError

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 32
NAMES = [name for name in METHODS if choose_method(name).reads_frames]
TINY = {"size": SIZE, "width": 2, "batch_size": 4}
LEARNT = {"conv-ae": 60, "unet": 80, "mnad": 40, "mlep": 120, "ognet": 100}
"""Steps, at a rate for so small a network."""
HOW = {"ognet": {"learning_rate": 1e-3, "width": 8, "second_steps": 30}}
CPU = torch.device("cpu")


OWN = {"ognet": {"patch": 16, "second_steps": 0, "batch_size": 16}}


def tiny(name: str, **changes: object) -> FrameMethod:
    return choose_method(name).changed({**TINY, **OWN.get(name, {}), **changes})  # type: ignore[return-value]


def walk(num_frames: int, *, odd: Sequence[int] = (), seed: int = 0) -> NDArray[np.uint8]:
    """Return (T, SIZE, SIZE, 3): a bright square that walks to the right; odd frames have noise."""
    rng = np.random.default_rng(seed)
    frames = np.full((num_frames, SIZE, SIZE, 3), 60, np.uint8)
    for number, frame in enumerate(frames):
        left = (2 * number + 5 * seed) % (SIZE - 8)
        frame[10:20, left : left + 8] = (200, 160, 120)
        if number in odd:
            frame[rng.integers(0, SIZE, 60), rng.integers(0, SIZE, 60)] = 255
    return frames


def add_frames(
    cache: FeatureCache, video: str, frames: NDArray[np.uint8], **config: object
) -> None:
    source = SourceRecord(
        name=video,
        kind="file",
        size=1000,
        sha256=hashlib.sha256(video.encode()).hexdigest(),
        num_frames=len(frames),
        frame_rate=25.0,
        width=320,
        height=240,
    )
    cache.write(
        [
            FeatureRecord(
                stream=FRAMES,
                kind=FRAMES,
                config={"stream": FRAMES, "frames": {"size": SIZE, **config}},
                source=source,
                features=frames,
                clips=clip_table(len(frames), clip_len=1),
            )
        ]
    )


ROWS = [
    *(label(f"walk{number}", "train") for number in range(3)),
    label("held", "val"),
    label("bad", "train", "20:30"),
    label("quiet", "test"),
    label("odd", "test", "20:30"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    cache = FeatureCache.create(tmp_path_factory.mktemp("frames") / "features")
    for number, row in enumerate(ROWS):
        odd = range(20, 30) if row.is_abnormal else ()
        add_frames(cache, row.video, walk(40, odd=odd, seed=number))
    write_labels(cache.labels_path, ROWS)
    return cache


def material(cache: FeatureCache, method: FrameMethod) -> Material:
    return gather(method, cache, ROWS)[1]


# --- what they find -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick_first(NAMES, ["conv-ae"]))
def test_each_method_finds_the_frames_that_are_odd(
    name: str, cache: FeatureCache, tmp_path: Path
) -> None:
    how = {"learning_rate": 3e-3, **HOW.get(name, {})}
    taught = tiny(name, steps=LEARNT[name], **how)
    trained = run_training(cache, ROWS, taught, runs=tmp_path)
    report = run_evaluation(trained.run, cache, ROWS, pictures=False)
    values = report.metrics.values
    assert values["auc"] > (0.8 if name == "ognet" else 0.9)
    assert report.metrics.counts["num_frames"] == 80
    assert report.protocol.startswith(f"{name}, {taught.supervision}")
    rows = [line for line in (trained.run / "metrics.jsonl").read_text().splitlines() if line]
    assert len(rows) == LEARNT[name] // 20
    if name == "ognet":  # it does not measure by the ratio
        return
    # it has learnt: normal frames are rebuilt better than by a network of one step
    method, run = tiny(name), load_run(trained.run)
    untaught = tiny(name, steps=1).fit(material(cache, method), FitSession(seed=0))
    frames = walk(40, seed=9)
    ratios = []
    for parameters in (run.checkpoints[0].parameters, untaught.parameters):
        network = method.network()
        network.load_state_dict(network_weights(parameters))
        with torch.inference_mode():
            ratios.append(method.measure(network.eval(), frames)[:, 0].mean())
    assert ratios[0] > ratios[1] + 3


@pytest.mark.parametrize("name", quick_first(NAMES, ["conv-ae", "mlep"]))
def test_one_percent_of_normal_frames_reach_a_half(name: str, cache: FeatureCache) -> None:
    method = tiny(name, steps=5)
    known = material(cache, method)
    assert known.val is not None
    # held-out frames calibrate where there are some, else those of the training
    parts = [(known.val, known)]
    if method.supervision == "unsupervised":  # else abnormal frames are among those of the training
        parts.append((known.train, replace(known, val=None)))
    for data, part in parts:
        fitted = method.fit(part, FitSession(seed=0))
        scores = method.score(fitted, data, CPU).slots
        assert scores.shape == (len(data.features),)
        assert 0 < (scores >= 0.5).mean() <= 0.25  # the walk repeats itself: there are ties
        assert ((scores > 0) & (scores < 1)).all()


def test_normal_frames_are_found_behind_a_long_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "CALIBRATION_FRAMES", 20)
    cache = FeatureCache.create(tmp_path / "features")
    rows = [label("a", "train", "0:30"), label("b", "train", "0:26")]
    for row in rows:
        add_frames(cache, row.video, walk(40))
    method = tiny("mlep", steps=1)
    _, known = gather(method, cache, rows)
    seen: list[int] = []
    measure = MarginPrediction.measure

    def counted(self: MarginPrediction, network: MarginNetwork, frames: NDArray[np.uint8]) -> Any:
        seen.append(len(frames))
        return measure(self, network, frames)

    monkeypatch.setattr(MarginPrediction, "measure", counted)
    usual = method.fit(known, FitSession(seed=0)).parameters["usual"]
    assert np.isfinite(usual).all()
    assert seen == [10, 10]


@pytest.mark.parametrize("name", quick_first(NAMES, ["conv-ae", "unet"]))
def test_a_seed_says_it_all(name: str, cache: FeatureCache) -> None:
    method = tiny(name, steps=3)
    known = material(cache, method)
    before = torch.random.get_rng_state()
    first, again, other = (
        method.fit(known, FitSession(seed=seed)).parameters for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(array, again[key]) for key, array in first.items())
    assert any(not np.array_equal(array, other[key]) for key, array in first.items())


@pytest.mark.parametrize("name", quick_first(NAMES, ["conv-ae"]))
def test_a_killed_training_ends_as_one_that_was_not(
    name: str, cache: FeatureCache, tmp_path: Path
) -> None:
    method = tiny(name, steps=25)
    whole = run_training(cache, ROWS, method, out=tmp_path / "whole")

    def die(row: dict) -> None:
        if row["step"] == 20:
            raise KilledError

    with pytest.raises(KilledError):
        run_training(cache, ROWS, method, out=tmp_path / "killed", on_row=die, save_seconds=0.0)
    resume_training(cache, tmp_path / "killed", options=DataOptions())
    expected = load_run(whole.run).checkpoints[0].parameters
    found = load_run(tmp_path / "killed").checkpoints[0].parameters
    assert all(np.array_equal(array, found[key]) for key, array in expected.items())
    logs = [(tmp_path / n / "metrics.jsonl").read_text() for n in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_the_loss_of_flow_teaches_and_goes_on_after_a_kill(cache: FeatureCache) -> None:
    method = tiny("unet", steps=21, batch_size=1)
    known = material(cache, method)
    saved: list[SavedState] = []

    def keep(make: Callable[[], SavedState]) -> None:  # its tensors are those that learn on
        state = make()
        copies = {name: value.clone() for name, value in state.tensors.items()}
        saved.append(replace(state, tensors=copies))

    whole = method.fit(known, FitSession(seed=0, offer_state=keep))
    assert saved[0].step == 20
    resumed = method.fit(known, FitSession(seed=0, saved=saved[0]))
    without = method.changed({"flow_weight": 0.0}).fit(known, FitSession(seed=0))
    for name, array in whole.parameters.items():
        np.testing.assert_array_equal(array, resumed.parameters[name])
    assert any(not np.array_equal(x, without.parameters[n]) for n, x in whole.parameters.items())


@pytest.mark.parametrize("name", [name for name in NAMES if tiny(name).steps_are_alike])
def test_a_step_never_looks_at_a_value_so_that_a_graph_can_hold_it(name: str) -> None:
    method = tiny(name)
    with FakeTensorMode():  # tensors without values
        network = method.network()
        step = method.learn(network, method.optimizers(network))
        batch = torch.empty(4, method.window, method.channels, SIZE, SIZE)
        for _ in range(2):
            assert step(batch).shape == ()


@pytest.mark.parametrize("name", ["conv-ae", "unet", "mnad", "mlep"])
@pytest.mark.parametrize("has", [{}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_a_processor_with_instructions_for_bfloat16_computes_in_it(
    name: str, has: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    method = tiny(name)
    found: list[torch.dtype] = []
    with FakeTensorMode():  # whatever this processor has
        network = method.network()
        first = next(each for each in network.modules() if isinstance(each, torch.nn.Conv2d))
        first.register_forward_hook(lambda _module, _inputs, output: found.append(output.dtype))
        step = method.learn(network, method.optimizers(network))
        loss = step(torch.empty(4, method.window, method.channels, SIZE, SIZE))
    assert set(found) == {torch.bfloat16 if has else torch.float32}
    assert loss.dtype == torch.float32


@pytest.mark.skipif(
    not multiplies_bfloat16(CPU), reason="this processor has no instructions for bfloat16"
)
@pytest.mark.parametrize("name", ["conv-ae", "unet", "mnad", "mlep"])
def test_in_bfloat16_a_method_learns_as_in_float32(
    name: str, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny(name, steps=40)
    known = material(cache, method)
    losses = []
    for has in ({"avx512_bf16": True}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        rows: list[float] = []
        method.fit(known, FitSession(seed=0, log=lambda row, rows=rows: rows.append(row["loss"])))
        losses.append(rows)
    assert losses[0] != losses[1]
    np.testing.assert_allclose(*losses, rtol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_takes_the_steps_that_are_taken_without(
    name: str, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny(name, steps=60)
    known = material(cache, method)
    logs: list[list[float]] = []
    for kernels in ("1", "0"):
        monkeypatch.setenv("FEAT_KERNELS", kernels)
        rows: list[float] = []
        saved: list[SavedState] = []
        session = FitSession(
            seed=0,
            device=torch.device("cuda"),
            log=lambda row, rows=rows: rows.append(row["loss"]),
            offer_state=lambda make, saved=saved: saved.append(make()),
        )
        method.fit(known, session)
        logs.append(rows)
        assert saved[0].step == 20
        method.fit(known, replace(session, saved=saved[0], log=lambda row: None))
    np.testing.assert_allclose(*logs, rtol=0.05)  # bfloat16


def test_a_step_leaves_the_slopes_of_other_weights_alone() -> None:
    """A recorded step must not add to what is freed while it is recorded."""
    ours, others = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.1)
    before = ours.weight.detach().clone()
    take_step(optimizer, others(ours(torch.ones(1, 2))).sum())
    assert not torch.equal(before, ours.weight)
    assert all(weight.grad is None for weight in others.parameters())


def test_the_learning_rate_falls_as_published(cache: FeatureCache) -> None:
    mnad, unet = tiny("mnad", steps=100), tiny("unet", steps=30, fast_steps=20)
    assert [mnad.rate(step) for step in (1, 51)] == pytest.approx([1, 0.5])
    assert 0 < mnad.rate(100) < 0.001
    assert [unet.rate(step) for step in (1, 20, 21, 30)] == [1, 1, 0.1, 0.1]
    # a step at a tiny rate moves the weights by as little
    known = material(cache, unet)
    fast, slow, stays = (
        method.fit(known, FitSession(seed=0)).parameters["network.generator.last.weight"]
        for method in (
            unet.changed({"steps": 2}),
            unet.changed({"steps": 2, "fast_steps": 1}),
            unet.changed({"steps": 1}),
        )
    )
    assert np.abs(slow - stays).max() == pytest.approx(np.abs(fast - stays).max() / 10, rel=0.01)


def test_what_goes_on_from_a_file_lies_in_memory_as_before(tmp_path: Path) -> None:
    """Else Adam goes through each weight twice as slowly, for the rest of the training."""
    method = tiny("conv-ae")

    def trained() -> tuple[torch.nn.Module, list[torch.optim.Optimizer]]:
        network = method.network_on(CPU)
        stepper = Stepper(method, network, CPU)
        stepper.step(torch.rand(4, method.window, method.channels, SIZE, SIZE), rate=1.0)
        return network, stepper.optimizers

    network, (before,) = trained()
    saved = training_tensors(network, [before])
    other, (after,) = trained()
    restore_training(saved, other, [after])
    strides = [
        [value.stride() for state in adam.state.values() for value in state.values()]
        for adam in (before, after)
    ]
    assert strides[0] == strides[1]
    assert any(stride[1:] and stride[1] == 1 for stride in strides[0])  # channels are last
    for name, value in training_tensors(other, [after]).items():
        assert torch.equal(value, saved[name])


@pytest.mark.slow
def test_a_state_of_another_network_or_a_part_of_one_is_refused(cache: FeatureCache) -> None:
    method = tiny("unet", steps=30)
    saved: list[SavedState] = []
    known = material(cache, method)
    method.fit(known, FitSession(seed=0, offer_state=lambda make: saved.append(make())))
    with pytest.raises(SavedStateError):
        tiny("mnad", steps=30).fit(known, FitSession(seed=0, saved=saved[0]))
    for owner in ("network", "0", "1"):  # weights, Adam and the discriminator's Adam
        tensors = {n: t for n, t in saved[0].tensors.items() if not n.startswith(f"{owner}.")}
        assert len(tensors) < len(saved[0].tensors)
        with pytest.raises(SavedStateError):
            method.fit(known, FitSession(seed=0, saved=replace(saved[0], tensors=tensors)))


@pytest.mark.parametrize("name", quick_first(NAMES, ["conv-ae", "mlep"]))
def test_a_video_is_scored_alike_alone_and_shorter_than_a_window(
    name: str, cache: FeatureCache, tmp_path: Path
) -> None:
    """Memories begin anew with each video, and a window of a few frames still has a score."""
    method = tiny(name, steps=5)
    fitted = method.fit(material(cache, method), FitSession(seed=0))
    config = {"frames": cache.configs(FRAMES)[0]}
    tests = [row for row in ROWS if row.split == "test"]
    both = load_frames(cache, tests, streams=(FRAMES,), configs=config)
    alone = load_frames(cache, tests[1:], streams=(FRAMES,), configs=config)
    np.testing.assert_array_equal(
        method.score(fitted, both, CPU).slots[40:], method.score(fitted, alone, CPU).slots
    )
    other = FeatureCache.create(tmp_path / "c")
    for count in (1, 3, 5):
        add_frames(other, f"short{count}", walk(count))
        short = load_frames(other, [label(f"short{count}", "test")], streams=(FRAMES,))
        scores = method.score(fitted, short, CPU).slots
        assert scores.shape == (count,)
        assert np.isfinite(scores).all()


# --- frames and windows -------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    length=st.integers(1, 5),
    strides=st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True),
)
def test_windows_are_all_there_and_none_crosses_a_cut(
    lengths: list[int], length: int, strides: list[int]
) -> None:
    # the value of a pixel says of which video and frame it is
    videos = [
        np.full((count, 1, 1, 1), 16 * number, np.uint8)
        + np.arange(count, dtype=np.uint8)[:, None, None, None]
        for number, count in enumerate(lengths)
    ]
    expected = {
        tuple(16 * number + start + stride * np.arange(length))
        for stride in strides
        for number, count in enumerate(lengths)
        for start in range(count - (length - 1) * stride)
    }
    if not expected:
        with pytest.raises(ModelError, match="no training video has the"):
            FrameWindows(videos, length=length, strides=strides)
        return
    windows = FrameWindows(videos, length=length, strides=strides)
    found = [tuple(row.ravel().tolist()) for row in windows.read(np.arange(len(windows)))]
    # windows of one frame are the same with every stride
    assert set(found) == expected
    assert length == 1 or len(found) == len(expected)


@given(num=st.integers(6, 30), size=st.integers(1, 5), first=st.integers(0, 9))
def test_batches_go_through_all_windows_and_go_on_where_they_were(
    num: int, size: int, first: int
) -> None:
    frames = np.arange(num, dtype=np.uint8)[:, None, None, None]
    windows = FrameWindows([frames], length=2)
    each = max(len(windows) // size, 1)
    steps = max(2 * each, first)
    batches = list(windows.batches(batch_size=size, steps=steps, seed=3))
    assert len(batches) == steps
    for epoch in (batches[:each], batches[each : 2 * each]):
        starts = torch.cat(epoch)[:, 0].ravel().tolist()
        assert len(set(starts)) == len(starts) >= len(windows) - size + 1 or size > len(windows)
    rest = list(windows.batches(batch_size=size, steps=steps, seed=3, first_step=first))
    assert len(rest) == steps - first
    assert all(torch.equal(a, b) for a, b in zip(batches[first:], rest, strict=True))


@given(
    num=st.integers(1, 25), length=st.integers(1, 6), size=st.integers(1, 4), step=st.integers(1, 3)
)
def test_scoring_windows_cover_the_video(num: int, length: int, size: int, step: int) -> None:
    frames = np.arange(num, dtype=np.uint8)[:, None, None, None]
    step = min(step, length)
    seen = []
    for rows, batch in windows_of(frames, length, batch_size=size, step=step):
        assert batch.shape == (len(rows), length, 1, 1, 1)
        assert len(rows) <= size
        np.testing.assert_array_equal(batch.numpy().ravel(), rows.ravel())
        seen += rows.tolist()
    assert {frame for row in seen for frame in row} == set(range(num))
    assert seen[-1][-1] == num - 1
    ends = [row[-1] for row in seen]
    assert ends == sorted(set(ends))
    if step == 1:  # one for each frame that can be predicted
        assert ends == list(range(min(length, num) - 1, num))


def test_frames_before_the_first_value_have_that() -> None:
    values = np.array([[3.0], [4.0]])
    assert from_the_first(values, 4).ravel().tolist() == [3, 3, 3, 4]


def test_frames_become_what_a_network_gets() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    same = network_frames(torch.from_numpy(frames), size=8, gray=False, device=CPU)
    assert same.shape == (2, 3, 3, 8, 8)
    np.testing.assert_allclose(
        (same.numpy() + 1) * 127.5, frames.transpose(0, 1, 4, 2, 3), atol=1e-4
    )
    gray = network_frames(torch.from_numpy(frames), size=8, gray=True, device=CPU)
    luma = cv2.cvtColor(frames[1, 2], cv2.COLOR_RGB2GRAY)
    np.testing.assert_allclose((gray[1, 2, 0].numpy() + 1) * 127.5, luma, atol=0.6)
    tripled = network_frames(torch.from_numpy(frames[..., :1]), size=8, gray=False, device=CPU)
    assert torch.equal(tripled[:, :, 0], tripled[:, :, 2])
    # halved, each pixel is a mean of those around it, the further the less: PIL does the same
    small = network_frames(torch.from_numpy(frames), size=4, gray=False, device=CPU)
    expected = np.asarray(Image.fromarray(frames[0, 1]).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(
        (small[0, 1].permute(1, 2, 0).numpy() + 1) * 127.5, expected, atol=1.01
    )


# --- arithmetic ---------------------------------------------------------------------------------


def test_the_ratio_is_opencvs() -> None:
    a, b = np.random.default_rng(1).integers(0, 256, (2, 3, 9, 7), dtype=np.uint8)
    scaled = [torch.from_numpy(x[None] / 127.5 - 1) for x in (a, b)]
    assert float(peak_ratio(*scaled)[0]) == pytest.approx(cv2.PSNR(a, b), rel=1e-6)
    assert float(peak_ratio(scaled[0], scaled[0])[0]) == 80


def test_gradients_are_compared_by_their_size() -> None:
    a, b = torch.rand(2, 2, 3, 6, 5).double()
    down = np.abs(np.abs(np.diff(a.numpy(), axis=2)) - np.abs(np.diff(b.numpy(), axis=2))).mean()
    across = np.abs(np.abs(np.diff(a.numpy(), axis=3)) - np.abs(np.diff(b.numpy(), axis=3))).mean()
    assert float(gradient_difference(a, b)) == pytest.approx(down + across)
    assert float(gradient_difference(a, -a)) == pytest.approx(0, abs=1e-12)


def memory_by_loops(items: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Equations 3 to 5 of Park et al. 2020, query by query."""
    likeness = queries @ items.T
    over_queries = np.exp(likeness) / np.exp(likeness).sum(axis=0)
    updated = items.copy()
    for m in range(len(items)):
        mine = [k for k in range(len(queries)) if likeness[k].argmax() == m]
        if not mine:
            continue
        largest = max(over_queries[k, m] for k in mine)
        for k in mine:
            updated[m] += over_queries[k, m] / largest * queries[k]
    return updated / np.linalg.norm(updated, axis=1, keepdims=True)


def test_the_memory_moves_as_published() -> None:
    torch.manual_seed(0)
    network = MemoryNetwork(3, before=4, width=2, num_items=5).double()
    queries = torch.nn.functional.normalize(torch.randn(2, 7, 16).double(), dim=-1)
    before = network.items.numpy().copy()
    network.remember(queries)
    np.testing.assert_allclose(
        network.items.numpy(), memory_by_loops(before, queries.numpy().reshape(-1, 16)), rtol=1e-9
    )
    first, second = network.nearest(queries)
    order = np.argsort(-(queries.numpy() @ network.items.numpy().T), axis=-1)
    np.testing.assert_array_equal(first.numpy(), network.items.numpy()[order[..., 0]])
    np.testing.assert_array_equal(second.numpy(), network.items.numpy()[order[..., 1]])


def test_a_memory_learns_while_scoring_only_from_frames_that_seem_normal() -> None:
    torch.manual_seed(0)
    method = tiny("mnad")
    network = method.network().eval()
    frames = walk(12)
    fixed, free = (replace(method, update_below=limit) for limit in (0.0, 10.0))
    before = network.items.clone()
    with torch.inference_mode():
        still, moved = (one.measure(network, frames) for one in (fixed, free))
    assert torch.equal(network.items, before)
    np.testing.assert_allclose(still[:5], moved[:5])  # up to the first update
    assert not np.allclose(still[6:, 1], moved[6:, 1])


def test_in_the_second_phase_the_auto_encoder_rests(cache: FeatureCache) -> None:
    """And the discriminator learns to tell what it rebuilds from what its old state did."""
    both, first = (tiny("ognet", steps=6 + more, second_steps=more) for more in (4, 0))
    known = material(cache, both)
    after, before = (method.fit(known, FitSession(seed=0)).parameters for method in (both, first))

    def part(parameters: Parameters, name: str) -> dict[str, NDArray[np.float32]]:
        return {key: value for key, value in parameters.items() if f".{name}." in key}

    for name, rests in (("new", True), ("old", True), ("judge", False)):
        now, then = part(after, name), part(before, name)
        assert all(np.array_equal(now[key], then[key]) for key in now) == rests
    old, new = (list(part(after, name).values()) for name in ("old", "new"))
    assert not np.array_equal(old[0], new[0])


def test_each_seed_draws_its_own_patches(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny("ognet", steps=2)
    known = material(cache, method)
    drawn = []
    find = OldIsGold.moving_patches

    def kept(self: OldIsGold, batch: Tensor, generator: torch.Generator) -> Tensor:
        drawn.append(generator.initial_seed())
        return find(self, batch, generator)

    monkeypatch.setattr(OldIsGold, "moving_patches", kept)
    for seed in (1, 1, 2):
        method.fit(known, FitSession(seed=seed))
    assert drawn[:2] == drawn[2:4]
    assert len(set(drawn)) == 4


def test_a_patch_is_where_most_moves() -> None:
    method = tiny("ognet", patch=8)
    batch = torch.zeros(3, 2, 3, SIZE, SIZE)
    batch[:, 1, :, 4:12, 20:28] = 1.0
    patches = method.moving_patches(batch, torch.Generator().manual_seed(0))
    assert patches.shape == (3, 3, 8, 8)
    tried = torch.randint(25, (3, 8, 2), generator=torch.Generator().manual_seed(0))
    for patch, places in zip(patches, tried.tolist(), strict=True):
        sums = [float(batch[0, 1, :, top : top + 8, left : left + 8].sum()) for top, left in places]
        assert float(patch.sum()) == max(sums)


@pytest.mark.parametrize("contrast", [1.0, 0.05])
def test_a_frame_is_rated_by_what_moves_most_however_little_that_is(contrast: float) -> None:
    torch.manual_seed(0)
    method = tiny("ognet", patch=8, width=16)  # places 0, 4, ... 24 both ways, of which 7 are rated
    network = method.network().eval()
    noise = np.random.default_rng(0).normal(0, 40, (6, SIZE, SIZE, 3))
    frames = np.clip(120 + contrast * noise, 0, 255).astype(np.uint8)
    with torch.inference_mode():
        values = method.measure(network, frames)[:, 0]
        shown = method.tensors(torch.from_numpy(frames[None]), CPU)[0]
        for number in range(1, 6):
            patches = {
                (top, left): shown[number - 1 : number + 1, :, top : top + 8, left : left + 8]
                for top in range(0, 25, 4)
                for left in range(0, 25, 4)
            }
            moved = sorted(
                patches.values(), key=lambda pair: -float((pair[1] - pair[0]).abs().mean())
            )
            rated = [float(network.judge(network.new(pair[1:]))) for pair in moved[:7]]
            assert values[number] == pytest.approx(max(rated), rel=1e-4)
    assert len(set(values)) > 4


def test_large_errors_weigh_more() -> None:
    frame = torch.zeros(1, 1, 2, 2)
    other = torch.tensor([[[[0.0, 1.0], [2.0, 0.0]]]])
    error = np.array([0, 0.25, 1, 0])
    weight = 1 - np.exp(-error)
    expected = (weight * error).sum() / weight.sum()
    assert float(weighted_error(other, frame)) == pytest.approx(expected)
    assert float(weighted_error(frame, frame)) == 0


@pytest.mark.parametrize("normalise", [False, True])
def test_the_net_has_the_published_number_of_weights(normalise: bool) -> None:
    """7.7 million for four colour frames without, 15.6 with a memory (METHODS of both papers)."""
    with torch.device("meta"):
        unet = UNet(12, 3, width=64, normalise=normalise, widened=1 + normalise)
    count = sum(weights.numel() for weights in unet.parameters()) / 1e6
    assert count == pytest.approx(15.65 if normalise else 13.3, rel=0.02)


def test_a_decibel_is_the_same_everywhere_in_the_scores() -> None:
    method, usual = FutureFrame(), np.array([30.0])
    ratios = np.array([[20.0], [30.0], [40.0], [50.0]])
    assert np.diff(method.combine(ratios, usual)).tolist() == pytest.approx([-1 / 6] * 3)
    assert method.combine(ratios, usual)[1] == 0.5


def test_the_rebuilt_frames_of_the_published_size_fit() -> None:
    with torch.device("meta"):
        network = ConvAutoEncoder().network()
        frames = torch.empty(1, 10, 227, 227)
        assert network(frames).shape == frames.shape
        first = network.first(frames)
    assert first.shape[1:] == (512, 55, 55)


# --- what they are told and say -----------------------------------------------------------------


def test_streams_that_do_not_fit_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, ["train", "--cache", str(cache.path), *words])
        assert done.exit_code == 1
        return done.stderr.splitlines()[-1]

    assert "have no features in the cache, only frames" in run("--method", "knn")
    assert "have no features in the cache" in run("--method", "unet", "--streams", "rgb")
    mixed = FeatureCache.create(tmp_path / "c")
    for row in ROWS:
        add_video(mixed, row.video, {"rgb": np.zeros((3, 4))}, 40)
    write_labels(mixed.labels_path, ROWS)
    words = ["train", "--cache", str(mixed.path), "--method", "unet"]
    done = CliRunner().invoke(cli, words)
    assert "no stream frames: frames is missing for 4 of 4 videos" in done.stderr
    done = CliRunner().invoke(cli, [*words, "--streams", "rgb"])
    assert "the method looks at frames alone" in done.stderr


def test_frames_made_otherwise_are_refused(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "c")
    add_frames(cache, "a", walk(6))
    add_frames(cache, "b", walk(6), gray=True)
    with pytest.raises(ConfigError, match="were made differently"):
        load_frames(cache, [label("a", "train"), label("b", "train")], streams=(FRAMES,))


def test_sizes_that_no_network_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match="size"):
        FutureFrame(size=36)
    assert ConvAutoEncoder(size=227).size == 227
    with pytest.raises(ConfigError, match="size"):
        MNAD(size=16)


@pytest.mark.slow
def test_a_comparison_puts_frames_and_features_side_by_side(tmp_path: Path) -> None:
    rows: list[VideoLabel] = ROWS
    cache = FeatureCache.create(tmp_path / "c")
    rng = np.random.default_rng(0)
    for number, row in enumerate(rows):
        odd = range(20, 30) if row.is_abnormal else ()
        add_frames(cache, row.video, walk(40, odd=odd, seed=number))
        features = rng.normal(size=(3, 8))
        add_video(cache, row.video, {"rgb": features}, 40)
    write_labels(cache.labels_path, rows)
    words = ["compare", "--cache", str(cache.path), "--out", str(tmp_path / "cmp"), "--seeds", "1"]
    sets = [f"unet.{name}={value}" for name, value in {**TINY, "steps": 5}.items()]
    first = CliRunner().invoke(cli, [*words, "--methods", "knn"])
    assert first.exit_code == 0, first.output
    options = [word for text in sets for word in ("--set", text)]
    both = CliRunner().invoke(cli, [*words, "--methods", "knn,unet", *options])
    assert both.exit_code == 0, both.output
    assert "unet" in both.stdout
    assert "knn" in both.stdout
    assert (tmp_path / "cmp" / "unet" / "seed-0" / "eval").is_dir()
    # the picture has a line a method
    with Image.open(tmp_path / "cmp" / "compare.png") as picture:
        assert picture.size == (640, round(100 * (1.2 + 0.28 * 2)))


@pytest.mark.slow
def test_table_3_is_all_of_the_papers_methods(tmp_path: Path) -> None:
    """Its ten competitors and its own, which one command trains and draws."""
    cache = FeatureCache.create(tmp_path / "c")
    rng = np.random.default_rng(0)
    rows = [
        *(label(f"n{number}", split) for number, split in enumerate(["train"] * 4 + ["test"])),
        *(label(f"a{n}", split, "20:30", "x") for n, split in enumerate(["train"] * 4 + ["test"])),
    ]
    for number, row in enumerate(rows):
        odd = range(20, 30) if row.is_abnormal else ()
        add_frames(cache, row.video, walk(32, odd=odd, seed=number))
        features = {name: rng.normal(size=(2, 64)) + row.is_abnormal for name in ("rgb", "flow")}
        add_video(cache, row.video, features, 32)
    write_labels(cache.labels_path, rows)
    sets = [f"{n}.{key}={value}" for n in NAMES for key, value in {**TINY, "steps": 1}.items()]
    sets += ["ognet.patch=8", "ognet.second_steps=0", "srnn.steps=1", "convlstm.steps=1"]
    sets += ["convlstm.hidden=1", "deepmil.steps=1", "ar-net.steps=1", "sparse.num_atoms=4"]
    options = [word for text in sets for word in ("--set", text)]
    words = ["compare", "--table3", "--seeds", "1", "--cache", str(cache.path)]
    done = CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "o"), *options])
    assert done.exit_code == 0, done.output
    named = re.findall(r"^\| ([a-z-]+) \|", done.stdout, re.M)
    assert {"convlstm", "sparse", "conv-ae", "gmm", "srnn", "unet", "mnad", "ognet", "deepmil",
            "mlep", "ar-net"} == set(named) - {"method", "---"}  # fmt: skip
    both = CliRunner().invoke(cli, [*words, "--methods", "knn"])
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr


def test_a_new_video_is_predicted_from_its_frames(tmp_path: Path) -> None:
    """Its frames are extracted as those that the run was trained on."""
    videos = tmp_path / "videos"
    for number in range(4):
        folder = videos / f"v{number}"
        folder.mkdir(parents=True)
        for place, frame in enumerate(walk(12, seed=number)):
            Image.fromarray(frame).save(folder / f"{place:03}.png")
    (videos / "labels.csv").write_text(
        "video,split,category,anomaly\nv0,train,,\nv1,train,,\nv2,test,,\nv3,test,,2:5\n"
    )

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("extract", str(videos), "--cache", str(tmp_path / "c"), "--streams", f"frames:{SIZE}")
    sets = [w for n, v in {**TINY, "steps": 3}.items() for w in ("--set", f"{n}={v}")]
    out = str(tmp_path / "run")
    run("train", "--cache", str(tmp_path / "c"), "--method", "unet", *sets, "--out", out)
    new = tmp_path / "elsewhere" / "new"
    new.mkdir(parents=True)
    for place, frame in enumerate(walk(9, seed=7)):
        Image.fromarray(frame).save(new / f"{place:03}.png")
    said = run("predict", str(new), "--run", out, "--keep", str(tmp_path / "keep"))
    assert "9 frames" in said
    kept = FeatureCache(tmp_path / "keep")
    (entry,) = kept.entries()
    assert (entry.stream, entry.feature_shape) == (FRAMES, (9, SIZE, SIZE, 3))
