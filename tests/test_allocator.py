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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_pages_are_kept_where_they_were_fetched_anew_and_given_back_again():
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    before, kept, after = map(int, said.split())
    assert before > 1000
    assert kept < before / 20
    assert after > 1000
