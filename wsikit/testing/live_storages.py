"""How much memory tensors take at once, counted and not measured."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors made under it that are alive at once.

    It sees what every operation returns, in the backward pass too: the same number on every
    machine, which the resident size of the process is not.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = self._live_bytes = 0
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self._alive: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
                continue  # a sparse matrix has no storage but that of its parts, which were seen as they were made
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._given and storage not in self._alive:
                # A running total: to add up all that are alive after every operation takes minutes for some models.
                self._alive.add(storage)
                self._live_bytes += int(storage.nbytes())
                weakref.finalize(storage, self._forget, int(storage.nbytes())).atexit = False
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        return result

    def _forget(self, size: int) -> None:
        self._live_bytes -= size
