"""How busy the encoders of a run were."""

from __future__ import annotations

from collections import defaultdict


class Usage:
    """The time of every worker: how long it was at tiles, how many, and how long its encoder had some to encode."""

    def __init__(self) -> None:
        self._spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._encoding: defaultdict[str, float] = defaultdict(float)
        self._tiles = 0

    def add(self, worker: str, tiles: int, began: float, seconds: float, encoding: float) -> None:
        """One shard.

        Args:
            worker: Who did it.
            tiles: How many it read.
            began: When, on that worker's clock, seconds.
            seconds: How long it took.
            encoding: Seconds of that in which the encoder ran.
        """
        self._spans[worker].append((began, began + seconds))
        self._encoding[worker] += encoding
        self._tiles += tiles

    def waited(self) -> float:
        """Share of the time at which a worker was at a shard (or at two) and its encoder did not run: 0 to 1."""
        present = sum(_union(spans) for spans in self._spans.values())
        return max(0.0, 1 - sum(self._encoding.values()) / present) if present else 0.0

    def tiles_per_s(self) -> float:
        """Tiles read per second, while at least one worker was at tiles; 0 where there were none."""
        busy = _union([span for spans in self._spans.values() for span in spans])
        return self._tiles / busy if busy else 0.0


def _union(spans: list[tuple[float, float]]) -> float:
    """Seconds that at least one span covers."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total
