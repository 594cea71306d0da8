"""Which arithmetic the networks run in. No torch unless a GPU is asked about."""

import functools
import logging
import platform
from pathlib import Path

from data.errors import ConfigError

logger = logging.getLogger(f"feat.{__name__}")

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# x86 instructions that multiply bfloat16: without one of them bfloat16 is emulated, and slower
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def precision_for(device: str, requested: str = "auto") -> str:
    """Return the arithmetic that `requested` means on `device`: the name that goes into the key.

    `auto` is the fastest, and said in a line of the log: float16 on a GPU with tensor cores, where
    bfloat16 is no faster and eight times as far off; bfloat16 on a CPU that multiplies it natively;
    else float32.

    Args:
        device: a torch device, `cpu`, `cuda` or `cuda:1`.
        requested: one of `PRECISIONS`.

    Raises:
        ConfigError: no such precision, or not on this device.
    """
    if requested not in PRECISIONS:
        raise ConfigError(f"precision: found {requested}, expected one of {', '.join(PRECISIONS)}")
    kind = device.partition(":")[0]
    if kind == "cpu" and requested == "float16":
        raise ConfigError("precision: float16 needs a GPU; expected float32, bfloat16 or auto")
    if requested == "auto":
        fastest = _fastest(device)
        what = "CPU" if kind == "cpu" else "GPU"
        logger.info("precision auto: %s, the fastest on this %s", fastest, what)
        return fastest
    if requested == "bfloat16" and not _multiplies_bfloat16(device):
        logger.warning("bfloat16 is emulated on this %s: float32 is faster and exact", kind)
    return requested


def _fastest(device: str) -> str:
    if device.startswith("cuda"):
        return "float16" if _capability(device) >= (7, 0) else "float32"
    return "bfloat16" if _multiplies_bfloat16(device) else "float32"


def _multiplies_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return _capability(device) >= (8, 0)
    return device.startswith("cpu") and bool(_BF16_FLAGS & cpu_flags())


def _capability(device: str) -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability(torch.device(device))


@functools.cache
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction sets of an x86 CPU under Linux; empty where that cannot be told."""
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()
