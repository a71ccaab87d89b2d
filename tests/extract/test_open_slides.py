"""Slides kept open between shards: lent to one at a time, closed when they give way or something went wrong."""

import threading

import pytest

import wsikit as wk
from wsikit.extract.open_slides import OpenSlides
from wsikit.testing.svs import write_svs


@pytest.fixture
def opened(tmp_path):
    """``open(name)``, and the list of what was opened."""
    import numpy as np

    for name in "abc":
        write_svs(tmp_path / f"{name}.svs", np.full((300, 300, 3), 200, np.uint8), mpp=0.5)
    found = []

    def opening(name):
        def open_it():
            found.append(wk.open_slide(tmp_path / f"{name}.svs"))
            return found[-1]

        return open_it

    return opening, found


def is_open(slide):
    try:
        slide.read_region((0, 0), (8, 8))
    except Exception:  # each library has its own
        return False
    return True


def test_a_slide_is_opened_once_for_one_borrower_after_another(opened):
    opening, found = opened
    slides = OpenSlides()
    for _ in range(3):
        with slides.borrow("a", opening("a")) as slide:
            assert slide is found[0]
    assert len(found) == 1
    slides.close()
    assert not is_open(found[0])


def test_two_borrowers_at_once_never_share_a_handle(opened):
    opening, found = opened
    slides, both = OpenSlides(), threading.Barrier(2)

    def borrow():
        with slides.borrow("a", opening("a")) as slide:
            both.wait(10)
            assert is_open(slide)

    other = threading.Thread(target=borrow)
    other.start()
    borrow()
    other.join()
    assert len({id(s) for s in found}) == 2


def test_the_one_given_back_longest_ago_is_closed(opened):
    opening, found = opened
    slides = OpenSlides(kept=2)
    for name in "abc":
        with slides.borrow(name, opening(name)):
            pass
    assert [is_open(s) for s in found] == [False, True, True]


def test_after_an_error_the_next_borrower_gets_a_fresh_handle(opened):
    opening, found = opened
    slides = OpenSlides()
    with pytest.raises(OSError, match="stale"), slides.borrow("a", opening("a")):
        raise OSError("stale file handle")
    assert not is_open(found[0])
    with slides.borrow("a", opening("a")) as slide:
        assert slide is found[1]
