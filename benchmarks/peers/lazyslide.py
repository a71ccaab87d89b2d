"""LazySlide's feature extraction with a model that does nothing, in a Python that has LazySlide.

    python -m venv lazy && lazy/bin/pip install torch==2.13.0 lazyslide==0.13.0
    lazy/bin/python benchmarks/peers/lazyslide.py SLIDE COORDS.npy

Prints {"tiles", "seconds", "version"} as JSON; ``pipeline.py`` calls it.
"""

import json
import sys
import time
from importlib.metadata import version

sys.path.pop(0)  # this folder, in which this file has LazySlide's own name

import numpy as np
import torch

_operators = torch.library.Library("torchvision", "FRAGMENT")  # torchvision's wheel does not import beside a CPU torch
_operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import wsidata  # noqa: E402
from lazyslide.tools import feature_extraction  # noqa: E402
from wsidata import TileSpec  # noqa: E402
from wsidata.io import add_tiles  # noqa: E402

PX = 256


def nothing(images: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(images), 8)


def main() -> None:
    slide, coords = sys.argv[1], np.load(sys.argv[2])
    torch.set_num_threads(1)
    wsi = wsidata.open_wsi(slide)
    spec = TileSpec.from_wsidata(wsi, PX, mpp=wsi.properties.mpp)
    assert (spec.base_width, spec.base_height, spec.ops_level) == (PX, PX, 0), spec  # the file's own tiles
    add_tiles(wsi, "tiles", coords, spec, np.zeros(len(coords), int))
    began = time.perf_counter()
    feature_extraction(wsi, nothing, device="cpu", batch_size=64, pbar=False)
    seconds = time.perf_counter() - began
    print(json.dumps({"tiles": len(coords), "seconds": seconds, "version": version("lazyslide")}))


if __name__ == "__main__":
    main()
