"""`make bench`, `bench-gpu`, `bench-scale`: run benchmarks, write docs/BENCHMARKS.md."""

import argparse
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

TARGET = Path("docs/BENCHMARKS.md")
THREADS = len(os.sched_getaffinity(0))
I3D = ["bench.bench_i3d", "--precision"]
# title, arguments of `python -m`
BENCHES = {
    "TV-L1 against OpenCV": ["bench.bench_tvl1"],
    "I3D against eager PyTorch, 1 thread": [*I3D, "float32", "--threads", "1"],
    f"I3D against eager PyTorch, {THREADS} threads": [*I3D, "float32"],
    "I3D in bfloat16 against eager PyTorch in float32, 1 thread": [
        *I3D,
        "bfloat16",
        "--threads",
        "1",
    ],
    "Decoding against ffmpeg alone and OpenCV": ["bench.bench_decode"],
    "Whole extraction against the reference": ["bench.bench_extract"],
    "Training steps against the published loop": ["bench.bench_train"],
    "Training from mapped features": ["bench.bench_mapped"],
    "Methods of pixels: training steps": ["bench.bench_frames", "steps"],
    "The feature cache": ["bench.bench_cache"],
    "A cache that is far away": ["bench.bench_transfer"],
    "Running again with everything there": ["bench.bench_rerun"],
    "Peak memory of a long video": ["bench.bench_memory"],
    "The report of a thousand videos": ["bench.bench_report"],
}
EXTRACT = ["bench.bench_gpu", "extract"]
# those of `make bench-gpu`, each with the CPU of the same machine beside the GPU
GPU_BENCHES = {
    "On a GPU: TV-L1": ["bench.bench_tvl1", "--device", "cuda"],
    "On a GPU: I3D": ["bench.bench_i3d", "--device", "cuda", "--runs", "3"],
    "On a GPU: training steps": [
        *("bench.bench_train", "--device", "cuda", "--rounds", "3", "--steps", "60"),
    ],
    "On a GPU: methods of pixels, training steps": [
        *("bench.bench_frames", "steps", "--preset", "default", "--device", "cuda"),
        *("--count", "100"),
    ],
    "On a GPU: weakly supervised methods, training steps": [
        *("bench.bench_methods", "--device", "cuda", "--steps", "200"),
    ],
    "On a GPU: whole extraction": [*EXTRACT, "--count", "2000"],
    "On a GPU: whole extraction of 640x360": [
        *(*EXTRACT, "--count", "300", "--size", "640x360", "--devices", "cuda"),
    ],
    "On a GPU: whole extraction of 1080p": [
        *(*EXTRACT, "--count", "150", "--size", "1920x1080", "--devices", "cuda"),
    ],
}
# those of `make bench-scale`
SCALE_BENCHES = {
    "Workers of a cluster: two against one": ["bench.bench_scale", "workers"],
    "Workers of a cluster: overhead of a call": ["bench.bench_scale", "calls"],
    "Workers of a cluster: ten thousand videos": ["bench.bench_scale", "many"],
    "A cache of a million entries": ["bench.bench_million"],
}


def cpu_name() -> str:
    """Return the CPU's name as Linux gives it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_name() -> str:
    """Return the first GPU's name and PyTorch's version there."""
    import torch

    return f"{torch.cuda.get_device_name()} (torch {torch.__version__})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="parts of titles; the others keep their text")
    parser.add_argument("--gpu", action="store_true", help="those for a GPU")
    parser.add_argument("--scale", action="store_true", help="those of clusters and large caches")
    options = parser.parse_args()
    sections = read_sections()
    chosen: dict[str, list[str]] = BENCHES
    if options.gpu or options.scale:
        chosen = GPU_BENCHES if options.gpu else SCALE_BENCHES
    failed: list[str] = []
    for title, arguments in chosen.items():
        if options.only and not any(part.lower() in title.lower() for part in options.only):
            continue
        print(f"== {title}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        print(done.stdout)
        if done.returncode:  # the others are worth their time all the same
            failed.append(title)
            continue
        command = f"`python -m {' '.join(arguments)}`"
        text = done.stdout.strip()
        # what is no Markdown table keeps its columns only as it stands
        text = text if "|---" in text else f"```\n{text}\n```"
        machine = f"{gpu_name()}, {cpu_name()}, {THREADS} cores.\n\n" if options.gpu else ""
        sections[title] = f"{command}\n\n{machine}{text}\n"
        write_sections(sections, keep_head=options.gpu)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def read_sections() -> dict[str, str]:
    """Return the sections of the file as it is, by title."""
    if not TARGET.exists():
        return {}
    _, *parts = TARGET.read_text().split("\n## ")
    return {title: text.strip() + "\n" for title, _, text in (p.partition("\n") for p in parts)}


def write_sections(sections: dict[str, str], *, keep_head: bool) -> None:
    """Write the file: what it was measured on, each section in the order of `BENCHES`, the rest.

    `keep_head`: another machine measured the sections that do not name theirs.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numba", "numpy"))
    head = (
        "# Benchmarks\n\nWritten by `make bench`. Both sides of a comparison take turns in one "
        "run; a ratio is the result,\nan absolute time is only context. The sections whose titles "
        'say "On a GPU"\nname their machine and command (`make bench-gpu` runs them all); the '
        "others are of this one:\n\n"
        f"{cpu_name()}, {THREADS} cores; {versions}.\n"
    )
    if keep_head and TARGET.exists():
        head = TARGET.read_text().partition("\n## ")[0]
    ours = [*BENCHES, *SCALE_BENCHES, *GPU_BENCHES]
    titles = [title for title in ours if title in sections]
    titles += [title for title in sections if title not in ours]  # written by hand
    parts = [f"\n## {title}\n\n{sections[title]}" for title in titles]
    TARGET.write_text(head + "".join(parts))


if __name__ == "__main__":
    main()
