"""Seconds until Python is ready: bare, after `import wsikit`, and for `wsikit --help`. Limit: 0.3 s on top of bare."""

import argparse
import statistics
import subprocess
import sys
import time

LIMIT_S = 0.3
CASES = {
    "python -c pass": ["-c", "pass"],
    "import wsikit": ["-c", "import wsikit"],
    "wsikit --help": ["-m", "wsikit", "--help"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one interpreter, from start to exit."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for name in CASES:
        seconds(CASES[name])  # the first run reads from the disk and compiles
    for _ in range(runs):  # in turn, so that a busy moment of the machine meets them all
        for name, arguments in CASES.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["python -c pass"])
    print(f"{'':16} {'median':>8} {'fastest':>8} {'on top':>8} {'of limit':>9}   ({runs} runs each)")
    for name, all_s in times.items():
        median = statistics.median(all_s)
        over = median - bare
        print(f"{name:16} {median:7.3f}s {min(all_s):7.3f}s {over:7.3f}s {over / LIMIT_S:9.2f}")


if __name__ == "__main__":
    main()
