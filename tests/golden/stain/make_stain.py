"""Reference numbers of stain normalisation from torchstain and SPAMS, for tests/slides/test_stain.py.

    python -m venv ref && ref/bin/pip install torchstain==1.4.1 torch spams-bin opencv-python-headless
    ref/bin/python make_stain.py pixels.npy reference.json

The input is (P, 3) uint8: tissue pixels that ``python make_stain.py --pixels SLIDE OUT.npy`` draws with wsikit.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

if sys.argv[1] == "--pixels":
    from wsikit.slides.open import open_slide
    from wsikit.slides.stain_norm import tissue_pixels

    with open_slide(sys.argv[2]) as slide:
        np.save(sys.argv[3], tissue_pixels(slide.read_region((1000, 1000), (512, 512))[None])[::16])
    sys.exit()

import spams
import torch
from torchstain.torch.normalizers.macenko import TorchMacenkoNormalizer
from torchstain.torch.normalizers.reinhard import TorchReinhardNormalizer

pixels = np.load(sys.argv[1])
picture = torch.from_numpy(pixels.T[:, None].copy())  # (3, 1, P)
source, target = TorchMacenkoNormalizer(), TorchMacenkoNormalizer()
source.fit(picture)
macenko, _, _ = target.normalize(picture, stains=False)  # to its built-in target
reinhard = TorchReinhardNormalizer()
reinhard.target_means, reinhard.target_stds = torch.tensor([47.1, 29.1, -12.7]), torch.tensor([19.3, 12.0, 9.9])
lab = reinhard.normalize(picture)  # (1, P, 3)
dyes = np.maximum(-np.log((pixels.astype(float) + 1) / 240), 0)
learnt = spams.trainDL(
    np.asfortranarray(dyes.T), K=2, lambda1=0.1, mode=2, modeD=0, posAlpha=True, posD=True, iter=2000, batchsize=512,
    D=np.asfortranarray(np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]).T), numThreads=1, verbose=False,
)  # fmt: skip
amounts = spams.lasso(
    np.asfortranarray(dyes[::97].T), D=np.asfortranarray(learnt), mode=2, lambda1=0.02, pos=True, numThreads=1
).toarray()
every = slice(None, None, 97)
out = {
    "versions": {name: version(name) for name in ("torchstain", "torch", "spams-bin", "numpy")},
    "pixels": len(pixels),
    "macenko": {
        "stains": source.HERef.T.tolist(),
        "strength": source.maxCRef.tolist(),
        "mapped": macenko[0][every].tolist(),
    },
    "reinhard": {"mapped": lab[0][every].tolist()},
    "spams": {"stains": learnt.T.tolist(), "amounts": amounts.T.round(6).tolist()},
}
Path(sys.argv[2]).write_text(json.dumps(out))
print({k: v for k, v in out.items() if k in ("versions", "pixels")}, out["macenko"]["stains"], out["spams"]["stains"])
