"""PyTorch state dicts that others wrote, read without running anything that is in them."""

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from data.errors import FeatError

if TYPE_CHECKING:
    from torch import Tensor


def read_state_dict(content: bytes, where: str, *, error: type[FeatError]) -> "dict[str, Tensor]":
    """Return the tensors in the bytes of a `.pt`, `.pth` or `.pkl` file, on the CPU.

    Args:
        content: of the file.
        where: its name, for messages.
        error: raised where the bytes are damaged or something else.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickles that are refused anyway
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as cause:  # damaged bytes can raise anything at all
        what = " ".join((str(cause) or type(cause).__name__).split(".")[0].split())
        raise error(
            f"{where}: damaged, or not a checkpoint: no state dict can be read from it "
            f"({what:.150}); expected what torch.save(model.state_dict(), ...) writes"
        ) from cause
    if not isinstance(loaded, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        kind = type(loaded).__name__
        raise error(f"{where}: holds a {kind}, expected a state dict of tensors")
    return {str(name): value for name, value in loaded.items()}
