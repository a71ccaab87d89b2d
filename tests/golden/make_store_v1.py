"""Writes the sample store of version 1: ``python make_store_v1.py FOLDER``.

The sample is committed. It is made again only to prove that today's writer still gives its bytes.
"""

import json
import sys
from pathlib import Path

import numpy as np

from wsikit.store.writer import add_features, begin_store, write_plan, write_shard

folder = Path(sys.argv[1])
root = folder / "store-v1.zarr"
root.mkdir(parents=True)
begin_store(root, {"tiling": {"tile_px": 256, "target_mpp": 0.5}})
coords = np.array([[0, 0], [256, 0], [0, 256], [256, 256]], np.int32)
facts = {"fingerprint": "0" * 64, "size_level0_px": [512, 600], "tile_level0_px": [256.0, 256.0], "mpp": [0.5, 0.5]}
write_plan(root, "tiny", attributes=facts, coords=coords, quality=np.array([[1], [0.5], [0.25], [1]], np.float32))
features = {"card": {"name": "golden", "dim": 3}, "run": {"batch_size": 2, "threads": 1}}
add_features(root, "tiny", "golden-00000000", dim=3, attributes=features)
values = np.array([[0.5, 1, -2], [3, 0.25, 0], [9, 9, 9], [1, 2, 3]], np.float16)
status = np.array([0, 0, 1, 0], np.uint8)
write_shard(root, "tiny", "golden-00000000", 0, values=values, status=status, facts={})
good = status == 0
expected = {"coords": coords[good].tolist(), "x": values[good].astype(float).tolist(), "status": status.tolist()}
(folder / "store-v1.json").write_text(json.dumps(expected))
