"""A log that fails: what it gets in the end, what is said, and how often it is tried."""

from __future__ import annotations

from wsikit.training.epoch import Epoch
from wsikit.training.lasting_log import LastingLog

EPOCHS = [Epoch(n, 1.0, 1.0, 1.0, 1.0) for n in range(1, 6)]


class Moody:
    """Takes epochs while nothing is wrong."""

    def __init__(self, wrong=None):
        self.got, self.asked, self.wrong, self.closed = [], 0, wrong, []

    def __call__(self, epoch):
        self.asked += 1
        if self.wrong is not None:
            raise self.wrong
        self.got.append(epoch.number)

    def close(self, *, failed=False):
        if self.wrong is not None:
            raise self.wrong
        self.closed.append(failed)


def test_owed_epochs_come_in_order_and_the_error_is_said_once():
    inner, said = Moody(), []
    log = LastingLog(inner, "Name", say=said.append, again_s=0)
    log(EPOCHS[0])
    inner.wrong = ValueError("no answer but\n<html>" + "x" * 1000)  # of no kind that a client promises
    log(EPOCHS[1])
    log(EPOCHS[2])
    inner.wrong = None
    log(EPOCHS[3])
    inner.wrong = OSError("away")
    log(EPOCHS[4])
    inner.wrong = None
    log.close(failed=True)
    assert inner.got == [1, 2, 3, 4, 5]
    assert inner.closed == [True]
    assert said == [
        "Name did not take epoch 2, training goes on: ValueError: no answer but <html>" + "x" * 180,
        "Name has all epochs again",
        "Name did not take epoch 5, training goes on: OSError: away",
        "Name has all epochs again",
    ]


def test_a_log_that_stays_away_costs_two_tries_and_is_named_at_the_end():
    inner, said = Moody(OSError("away")), []
    log = LastingLog(inner, "Name", say=said.append)
    for epoch in EPOCHS:
        log(epoch)
    assert inner.asked == 1  # a minute is not over
    log.close()
    assert inner.asked == 2
    assert said[1:] == [
        "Name has not got the epochs 1, 2, 3, 4, 5; history.csv has all",
        "Name: the run is not closed there: OSError: away",
    ]
