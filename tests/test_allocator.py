"""Memory that is freed and asked for again is not fetched from the system anew."""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
import numpy as np
from wsikit.allocator import give_back_freed_memory, keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(1_000_000, np.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ctypes.CDLL(None).mallopt(-1, 65536)  # as Dask's nannies do
first = faults()
assert keep_freed_memory()
faults()
kept = faults()
give_back_freed_memory()
print(first, kept, faults())
"""

IN_A_THREAD = """
import resource, threading
import numpy as np
from wsikit.allocator import keep_freed_memory

keep = %s
if keep:
    assert keep_freed_memory()

def work():
    for i in range(6):  # activations of a ViT-S, 64 tiles: more than a thread's own heap holds
        np.empty(77_000_000, np.uint8)[::4096] = 1
        if i == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_pages_are_kept_where_they_were_fetched_anew_and_given_back_again():
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    before, kept, after = map(int, said.split())
    assert before > 1000
    assert kept < before / 20
    assert after > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_thread_keeps_blocks_that_its_own_heap_would_not_hold():
    before, kept = (
        int(subprocess.run([sys.executable, "-c", IN_A_THREAD % keep], capture_output=True, check=True).stdout)
        for keep in (False, True)
    )
    assert before > 90  # at least one of each huge page
    assert kept < before / 20
