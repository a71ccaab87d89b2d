"""Import torchvision beside a CPU build of torch.

The torchvision wheel on PyPI is linked against the CUDA build of torch, so its compiled operators
do not load beside the CPU build; ``import torchvision`` then stops at registering a shape function
for an operator that nobody defined: ``operator torchvision::nms does not exist``. timm imports
torchvision, and needs none of those operators. Declaring their schemas (no implementation: calling
one still fails, loudly) lets the import through.
"""

from __future__ import annotations

import sys
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_declared: list[Any] = []  # the Library takes its definitions along when it is collected


def ensure_torchvision() -> None:
    """Make ``import torchvision`` work; call it before the first ``import timm``.

    Does nothing where the plain import works.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: The import fails for another reason than the missing operators.
    """
    if "torchvision" in sys.modules:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return
    import torch

    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    # What the failed import left behind would be found half-initialised by the second one.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torchvision  # noqa: F401
