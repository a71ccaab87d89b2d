"""Workers of this machine spend its cores on the work."""

import resource
import sys

import dask
import numpy as np
import pytest

from wsikit.extract.clusters import local_crew


def look():
    return dask.config.get("distributed.worker.profile.enabled"), dask.config.get("distributed.admin.tick.interval")


def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):  # activations of a ViT-S, 64 tiles: more than a thread's own heap holds
        np.empty(77_000_000, np.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_workers_are_not_watched_and_keep_memory_also_in_their_task_threads(monkeypatch):
    from wsikit.allocator import keep_freed_memory

    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    with local_crew(1) as crew:
        assert list(crew.client.run(look).values()) == [(False, "500ms")]
        crew.client.run(keep_freed_memory)  # as the plugin of an extraction does
        first = crew.client.submit(faults, 1, pure=False).result()
        assert first > 15  # a huge page each, or more
        assert crew.client.submit(faults, 5, pure=False).result() < 200
