"""Sound inputs that damage starts from: small, drawn from fixed seeds, made by the product."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extract.i3d.layers import expected_shapes

CLIPS = 12
#: A ConvLSTM that trains within a second.
SMALL = ("hidden=1", "layers=1", "clip_slots=1", "batch_size=8", "eval_every=2")


def feat(*arguments: object, cwd: Path | None = None) -> list[str]:
    """Return the command line of a `feat` process."""
    return [sys.executable, "-m", "feat", *map(str, arguments)]


def write_arrays(folder: Path, labels: Path) -> None:
    """Write features of eight videos, an .npy each, and their labels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["video,split,category,anomaly,scene,frames"]
    for number in range(8):
        features = rng.normal(size=(CLIPS, 8)).astype(np.float32)
        if number % 2:
            features[4:8] += 3
        np.save(folder / f"v{number}.npy", features)
        anomaly, category = ("64:128", "Fire") if number % 2 else ("", "")
        split = "train" if number < 4 else "val" if number < 6 else "test"
        rows.append(f"v{number}.mp4,{split},{category},{anomaly},,{16 * CLIPS}")
    labels.write_text("\n".join(rows) + "\n")


def write_run(folder: Path, *, steps: int = 4) -> None:
    """Train a small ConvLSTM from `cache/`: to the end in `run/`, killed in `killed/`."""
    write_arrays(folder / "arrays", folder / "labels.csv")
    labels = folder / "labels.csv"
    check(
        *("-q", "cache", "import", folder / "arrays", "--cache", folder / "cache", "--labels"),
        *(labels, "--frames", labels, "--stream", "i3d", "--origin", "random"),
    )
    how = ["-q", "train", "--cache", folder / "cache", "--out"]
    check(*how, folder / "run", *settings(steps))
    killed = subprocess.Popen(feat(*how, folder / "killed", *settings(10_000_000)))
    while killed.poll() is None and not (folder / "killed/resume.safetensors").is_file():
        time.sleep(0.1)
    killed.kill()
    killed.wait()


def settings(steps: int) -> list[str]:
    """Return the options of a small and short training on one thread."""
    return [*(f"--set={s}" for s in (*SMALL, f"steps={steps}")), "--threads", "1"]


def check(*arguments: object) -> None:
    """Run `feat` in a process of its own; it must succeed."""
    done = subprocess.run(feat(*arguments), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr.strip()}")


def random_state_dict() -> dict[str, NDArray[np.float32]]:
    """Return RGB I3D weights of seeded random numbers: a real network, only untrained."""
    rng = np.random.default_rng(0)
    state: dict[str, NDArray[np.float32]] = {}
    for name, shape in expected_shapes("rgb").items():
        if name.endswith(("running_var", "norm.weight")):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            # He initialisation keeps the activations' size from layer to layer
            array = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:], initial=1.0)), shape)
            array = array * (0.01 if len(shape) == 1 else 1.0)
        state[name] = array.astype(np.float32)
    return state
