"""PyTorch's CPU tensors, out of band: their own pickle copies each one through a file in memory.

What is not an ordinary dense CPU tensor (sparse, quantized, on a device, a subclass) pickles itself. The name of the
function here that rebuilds a tensor is part of the wire format.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from stoker.protocol.numpy_codec import Table


def register(table: Table) -> None:
    """Add the reducer of tensors; call it once ``torch`` has been imported."""
    table[sys.modules["torch"].Tensor] = _reduce_tensor


def is_ready(module: Any) -> bool:
    """Tell whether PyTorch's import has come to its end (another thread may be in the middle of it)."""
    return hasattr(module, "Tensor") and hasattr(module, "frombuffer") and hasattr(module, "compile")


def _is_plain(tensor: Any) -> bool:
    torch = sys.modules["torch"]
    return (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_leaf
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not tensor.__dict__
        and "numpy" in sys.modules
    )


def _reduce_tensor(tensor: Any) -> tuple[Any, ...] | str:
    if not _is_plain(tensor):
        reduced: tuple[Any, ...] = tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        return reduced
    uint8 = sys.modules["torch"].uint8
    raw = tensor.detach().contiguous().reshape(-1).view(uint8).numpy()
    dtype = str(tensor.dtype).partition(".")[2]
    return rebuild_tensor, (pickle.PickleBuffer(raw), dtype, tuple(tensor.shape), tensor.requires_grad)


def rebuild_tensor(data: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Any:
    """Return a tensor over ``data``, without a copy where that is writable."""
    import torch

    kind = getattr(torch, dtype)
    view = memoryview(data)
    if not view.nbytes:
        tensor = torch.empty(shape, dtype=kind)
    else:
        tensor = torch.frombuffer(bytearray(view) if view.readonly else view, dtype=kind).reshape(shape)
    return tensor.requires_grad_() if requires_grad else tensor
