"""What a step sees does not depend on where bags are kept; drawing as many tiles as there are draws all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassLabel, ClassTarget
from wsikit.training.batches import Batches
from wsikit.training.fit import fit
from wsikit.training.settings import ModelSettings, TrainingSettings

ROWS = np.array([5, 0, 17, 3])
CPU = torch.device("cpu")


def batches(bags, **training):
    return Batches(bags, TrainingSettings(device="cpu", **training), CPU)


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_as_many_tiles_as_there_are_is_all_of_them(toy):
    bags, _ = toy
    most = max(bags.count(int(r)) for r in ROWS)
    whole = batches(bags, tile_dropout=0.0).batch(ROWS, None)
    assert same(batches(bags, tile_dropout=0.0, bag_tiles=most).batch(ROWS, 3), whole)
    assert same(batches(bags, tile_dropout=0.0).batch(ROWS, 3), whole)
    assert not same(batches(bags, tile_dropout=0.0, bag_tiles=most - 1).batch(ROWS, 3), whole)


@pytest.mark.parametrize("most", [1, 7, 100])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_step_has_at_most_so_many_tiles_of_each_bag_and_an_answer_all(toy, most, share):
    bags, _ = toy
    found = batches(bags, tile_dropout=share, bag_tiles=most)
    x, offsets, grid = found.batch(ROWS, 3)
    sizes = [bags.count(int(r)) for r in ROWS]
    wanted = [min(most, max(1, round((1 - share) * n))) for n in sizes]
    assert offsets.diff().tolist() == wanted == [found.tiles(int(r), thinned=True) for r in ROWS]
    for start, stop, row in zip(offsets[:-1], offsets[1:], ROWS, strict=True):
        whole = bags[int(row)]
        at = found.choose(int(row), 3)
        at = np.arange(len(whole)) if at is None else at
        assert len(set(at.tolist())) == len(at)  # without replacement
        np.testing.assert_array_equal(x[start:stop].numpy(), whole.x[at])
        np.testing.assert_array_equal(grid[start:stop].numpy(), whole.grid[at])
    assert len(found.batch(ROWS, None)[0]) == sum(sizes)


def test_every_tile_is_drawn_equally_often(toy):
    bags, _ = toy
    found, n = batches(bags, tile_dropout=0.0, bag_tiles=4), bags.count(3)
    drawn = np.bincount(np.concatenate([found.choose(3, seed) for seed in range(4000)]), minlength=n)
    spread = np.sqrt(4000 * (4 / n) * (1 - 4 / n))
    assert np.abs(drawn - 4000 * 4 / n).max() < 4.5 * spread


@pytest.mark.parametrize("gib", [1.0, 1000 / (1 << 30)], ids=["all fit", "some fit"])
@pytest.mark.parametrize("seed", [None, 3])
def test_a_copy_on_the_device_is_the_same_batch_and_is_used(toy, gib, seed):
    bags, _ = toy
    plain, kept = batches(bags, bag_tiles=6), batches(bags, bag_tiles=6, device_cache_gb=gib)
    for _ in range(2):
        assert same(plain.batch(ROWS, seed), kept.batch(ROWS, seed))
    held = sum(x.nbytes + grid.nbytes for x, grid in kept._kept.values())
    assert 0 < held <= gib * (1 << 30)
    assert (len(kept._kept) == len(ROWS)) == (gib == 1.0)
    kept._kept = {row: (torch.zeros_like(x), grid) for row, (x, grid) in kept._kept.items()}
    assert not same(plain.batch(ROWS, seed), kept.batch(ROWS, seed))


@pytest.mark.parametrize("kept", [{"cache_bytes": 0}, {"cache_bytes": 2000}])
def test_memory_changes_no_bit_of_a_training(toy, kept):
    bags, label = toy
    found = []
    for mine, device in ((bags, 0.0), (Bags(bags.slides, encoder=bags.encoder, **kept), 0.0), (bags, 1.0)):
        training = TrainingSettings(device="cpu", epochs=2, bag_tiles=6, device_cache_gb=device)
        found.append(
            fit(
                mine, ClassLabel("y", ("0", "1")), ClassTarget(label, ("0", "1")), train=np.arange(24),
                validation=np.arange(24, 32), model=ModelSettings(options={"embed_dim": 8}), training=training,
            )
        )  # fmt: skip
    for other in found[1:]:
        assert other.history == found[0].history
        for name, value in found[0].model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), name


def test_mixed_tiles_lie_between_two_of_their_patient_and_the_others_are_as_they_were(toy):
    bags, _ = toy
    plain, half = (batches(bags, tile_dropout=0.0, mixup=share) for share in (0.0, 0.5))
    x, offsets, grid = plain.batch(ROWS, 3)
    mixed, same_offsets, same_grid = half.batch(ROWS, 3)
    assert torch.equal(offsets, same_offsets)
    assert torch.equal(grid, same_grid)
    assert mixed.dtype == x.dtype
    still = (mixed == x).all(1)
    assert 0.3 < still.float().mean() < 0.7
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        own = x[start:stop].double()
        for row in range(start, stop):
            way = own - x[row].double()  # (n, D), to each tile of the patient
            moved = mixed[row].double() - x[row].double()
            share = (way @ moved) / way.square().sum(1).clamp_min(1e-9)  # how far along each way
            miss = (moved - share[:, None] * way).abs().amax(1)
            fits = (miss < 0.02) & (share > -0.01) & (share < 1.01)
            assert still[row] or fits.any()
    assert same(half.batch(ROWS, None), plain.batch(ROWS, None))  # never in an answer
    assert same(half.batch(ROWS, 3), half.batch(ROWS, 3))
    assert not same(half.batch(ROWS, 3), half.batch(ROWS, 4))
    alone = half.batch(ROWS[1:2], 3)[0]  # the same whoever is beside it, so that parts mix as the whole does
    assert torch.equal(alone, mixed[offsets[1] : offsets[2]])
