"""A patient's bag is the union of the slides' tiles, whatever is kept in memory."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.cohort.bags import SLIDE_GAP, Bags, pack
from wsikit.cohort.endpoints import ClassLabel
from wsikit.cohort.graphs import GraphSettings, build_graph
from wsikit.cohort.table import CohortSlide, load_cohort
from wsikit.errors import StoreError
from wsikit.store.format import Layout
from wsikit.store.from_arrays import store_features
from wsikit.store.reader import FeatureStore, open_store


@pytest.fixture(scope="module")
def cohort(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "cohort.csv"
    path.write_text("slide_id,patient_id,label\ns0,a,0\ns1,a,0\ns3,b,1\ns2,c,1\ns4,c,1\ns5,d,0\n")
    return load_cohort(path, endpoint=ClassLabel("label", ("0", "1")), stores=store, encoder="toy")


def equal(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("x", "grid"))


def test_a_bag_is_the_union_of_its_slides_in_order(cohort, store):
    bags, source = Bags(cohort.slides, encoder=cohort.encoder), open_store(store)
    bag = bags[0]
    parts = [source.bag(name, encoder="toy") for name in ("s0", "s1")]
    np.testing.assert_array_equal(bag.x, np.concatenate([p.x for p in parts]))
    np.testing.assert_array_equal(bag.coords, np.concatenate([p.coords for p in parts]))
    first, second = bag.grid[:3], bag.grid[3:]
    np.testing.assert_array_equal(first, parts[0].grid - parts[0].grid.min(0))
    apart = [0, 2 * SLIDE_GAP]  # the multiple after the first slide's one row and the gap
    np.testing.assert_array_equal(second - apart, parts[1].grid - parts[1].grid.min(0))
    assert bag.slide.tolist() == [0] * 3 + [1] * 5
    assert [s.slide_id for s in bag.slides] == ["s0", "s1"]
    assert bag.x.dtype == np.float16


def test_tiles_that_could_not_be_read_are_not_in_the_bag(cohort):
    bag = Bags(cohort.slides, encoder=cohort.encoder)[2]
    assert bag.slide.tolist() == [0, 0, 1, 1]  # s2 has two tiles; s4 three, of which one is bad
    assert np.isfinite(bag.x).all()


def test_a_batch_lays_bags_one_after_the_other(cohort):
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    batch = bags.batch([3, 0, 1])
    assert batch.offsets.tolist() == [0, 6, 14, 18]
    assert batch.x.dtype == np.float16
    for i, position in enumerate([3, 0, 1]):
        rows = slice(batch.offsets[i], batch.offsets[i + 1])
        np.testing.assert_array_equal(batch.x[rows], bags[position].x)
        np.testing.assert_array_equal(batch.grid[rows], bags[position].grid)
    alone = pack([bags[1]])
    assert alone.offsets.tolist() == [0, 4]
    assert alone.x is bags[1].x  # one bag is not copied


def test_sizes_are_known_once_read(cohort):
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    assert (len(bags), bags.sizes.tolist()) == (4, [0, 0, 0, 0])
    assert [len(bags[i]) for i in range(4)] == bags.sizes.tolist() == [8, 4, 4, 6]


@pytest.mark.parametrize("budget", [0, 100])
def test_the_budget_decides_what_is_kept_and_not_what_is_read(cohort, budget):
    every = Bags(cohort.slides, encoder=cohort.encoder)
    few = Bags(cohort.slides, encoder=cohort.encoder, cache_bytes=budget)
    for _ in range(2):
        assert all(equal(few[i], every[i]) for i in range(4))
    assert every[0] is every[0]
    kept = [i for i in range(4) if few[i] is few[i]]
    assert sum(few[i].x.nbytes for i in kept) <= budget
    assert kept == ([] if budget == 0 else [0, 1])  # 64 bytes and 32; the next 32 do not fit
    assert equal(few.batch([2, 0]), every.batch([2, 0]))


@pytest.mark.parametrize(
    "ask",
    [lambda bags: bags[1], lambda bags: bags.batch([0, 1]), lambda bags: bags.take(1, np.array([0, 1, 2, 3]))],
    ids=["alone", "in a batch", "some tiles"],
)
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_number_that_is_none_is_named_however_it_is_read(tmp_path, ask, cache_bytes):
    x = np.ones((4, 2), np.float16)
    store = store_features(tmp_path / "store.zarr", {"well": x, "sick": x}, encoder="toy", source="drawn")
    values = Layout(store.path).features("sick", store.resolve("sick", "toy")) / "values" / "c.0.0"
    data = bytearray(values.read_bytes())
    data[4:6] = np.array([-np.inf], np.float16).tobytes()
    values.write_bytes(data)
    slides = [(CohortSlide(name, store, None),) for name in ("well", "sick")]
    with pytest.raises(StoreError, match="slides 'sick': 1 of 4 tiles have features that are infinite or no number"):
        ask(Bags(slides, encoder="toy", cache_bytes=cache_bytes))


def test_mean_feature_of_each_patient(cohort):
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    expected = np.stack([bags[i].x.astype(np.float64).mean(0) for i in range(4)])
    assert bags.means().dtype == np.float32
    np.testing.assert_allclose(bags.means(), expected, atol=1e-6)


def test_the_graph_of_a_patient_joins_the_tiles_of_each_slide(cohort):
    bags, graph = Bags(cohort.slides, encoder=cohort.encoder), GraphSettings(kind="knn", k=2)
    bag, edges = bags[0], bags.edges(0, graph)
    np.testing.assert_array_equal(edges, build_graph(graph, bag.grid, slide=bag.slide))
    assert (bag.slide[edges[0]] == bag.slide[edges[1]]).all()
    assert edges.shape[1] > 8
    assert bags.edges(0, graph) is edges  # built once
    assert bags.edges(0, GraphSettings()) is not edges


def test_edges_move_with_the_rows_of_a_batch(cohort):
    bags, graph = Bags(cohort.slides, encoder=cohort.encoder), GraphSettings()
    batch = bags.batch([3, 0, 1], graph=graph)
    start = 0
    for number, position in enumerate((3, 0, 1)):
        edges = bags.edges(position, graph)
        found = batch.edges[:, start : start + edges.shape[1]]
        np.testing.assert_array_equal(found, edges + batch.offsets[number])
        start += edges.shape[1]
    assert start == batch.edges.shape[1] > 0
    assert bags.batch([3, 0, 1]).edges is None


def test_edges_count_for_the_budget(cohort):
    graph = GraphSettings()
    none = Bags(cohort.slides, encoder=cohort.encoder, cache_bytes=0)
    assert none.edges(0, graph) is not none.edges(0, graph)
    np.testing.assert_array_equal(none.edges(0, graph), none.edges(0, graph))


def test_a_graph_on_disk_is_found_again_and_never_for_other_features(cohort, tmp_path, monkeypatch):
    graph = GraphSettings(kind="features", k=2)
    first = Bags(cohort.slides, encoder=cohort.encoder, graphs=tmp_path / "graphs").edges(0, graph)
    assert len(list((tmp_path / "graphs").iterdir())) == 1
    np.testing.assert_array_equal(first, Bags(cohort.slides, encoder=cohort.encoder).edges(0, graph))

    def never(*args, **kwargs):
        raise AssertionError("built again")

    monkeypatch.setattr("wsikit.cohort.bags.build_graph", never)
    again = Bags(cohort.slides, encoder=cohort.encoder, graphs=tmp_path / "graphs")
    found = again.edges(0, graph)
    np.testing.assert_array_equal(found, first)
    assert found.dtype == np.int64
    for position, other in ((1, graph), (0, GraphSettings(kind="features", k=1))):
        with pytest.raises(AssertionError, match="built again"):
            again.edges(position, other)


def test_a_radius_is_in_micrometres(cohort):
    bags = Bags(cohort.slides, encoder=cohort.encoder)  # steps of 256 px of 0.5 micrometres, in a row
    assert not bags.edges(3, GraphSettings(kind="radius", radius_um=127.0)).size
    assert (
        bags.edges(3, GraphSettings(kind="radius", radius_um=128.0)).tolist() == bags.edges(3, GraphSettings()).tolist()
    )


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
@pytest.mark.parametrize("tiles", [[1], [0, 4, 7], [7, 0, 4], [5, 6], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_some_tiles_are_those_of_the_whole_bag_whatever_is_in_memory(cohort, cache_bytes, tiles):
    whole = Bags(cohort.slides, encoder=cohort.encoder)[0]
    some = Bags(cohort.slides, encoder=cohort.encoder, cache_bytes=cache_bytes).take(0, np.array(tiles))
    for name in ("x", "coords", "grid", "slide"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[tiles], err_msg=name)
    assert some.slides == whole.slides


def test_what_is_counted_and_what_is_drawn_reads_no_whole_bag(cohort, store, monkeypatch):
    """Of a bag that the memory does not keep only the rows that are drawn are asked of the store."""
    asked = []
    read = FeatureStore.values

    def values(self, slide_id, *, encoder, rows=None):
        asked.append((slide_id, rows))
        return read(self, slide_id, encoder=encoder, rows=rows)

    monkeypatch.setattr(FeatureStore, "values", values)
    bags = Bags(cohort.slides, encoder=cohort.encoder, cache_bytes=0)
    assert [bags.count(i) for i in range(4)] == [8, 4, 4, 6]
    assert bags.sizes.tolist() == [8, 4, 4, 6]
    assert asked == []
    bags.take(0, np.array([1, 6]))
    bags.take(2, np.array([2]))  # s4's first usable tile
    usable = np.flatnonzero(open_store(store).status("s4", encoder="toy") == 0)
    assert asked == [("s0", [1]), ("s1", [3]), ("s2", []), ("s4", [int(usable[0])])]


def test_a_bag_that_fits_in_memory_is_read_once(cohort, monkeypatch):
    asked = []
    read = FeatureStore.values
    monkeypatch.setattr(
        FeatureStore, "values", lambda self, slide_id, **more: (asked.append(slide_id), read(self, slide_id, **more))[1]
    )
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    for _ in range(3):
        bags.take(1, np.array([0, 2]))
    assert asked == ["s3"]
