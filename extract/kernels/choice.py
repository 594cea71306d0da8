"""Whether extraction computes with the compiled kernels or in plain PyTorch and NumPy.

`FEAT_KERNELS=0` turns the kernels off, for an installation without numba or to see whether they
are the cause of something. Features of both ways have the same key: they differ by rounding, as
those of two processors do (docs/CACHE.md, "Machines that differ").
"""

import functools
import logging

from data.kernels import kernels_wanted

logger = logging.getLogger(f"feat.{__name__}")


def use_kernels() -> bool:
    """Whether the kernels are wanted and can be imported.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    return kernels_wanted() and not _import_failure()


def warn_without_kernels() -> None:
    """Log a warning if the kernels are wanted but cannot be imported.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    if kernels_wanted() and (cause := _import_failure()):
        logger.warning(
            "warning: the compiled kernels cannot be imported (%s): extraction on a CPU takes "
            "tens of times as long; reinstall numba, or set FEAT_KERNELS=0 to go without it",
            cause,
        )


@functools.cache
def _import_failure() -> str:
    """Return why the kernels cannot be imported, "" if they can."""
    try:
        import extract.kernels.simd  # noqa: F401 - numba, llvmlite and what we use of their insides
    except (ImportError, AttributeError) as error:
        return str(error)
    return ""
