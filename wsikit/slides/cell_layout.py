"""Where the regions to be cut lie among the cells of a level, and where those are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

RUN_TILES = 8
"""Regions cut with one copy at most."""

KNOWN = 4096
"""Places along an axis that are not worked out again; regions of a grid have few."""

Where = TypeVar("Where")


class Across(NamedTuple):
    """Where regions at one x lie.

    Attributes:
        cells: Of each column of cells: its first place, and its number.
        parts: Of each: its place among the columns, and which of its px.
        to: Px of the region that they fill.
        whole: Whether that is all.
        begin: Place of the first column; -1 where the others do not follow it in memory, or the region is not whole.
    """

    cells: list[tuple[int, int]]
    parts: list[tuple[int, slice]]
    to: slice
    whole: bool
    begin: int


class Down(NamedTuple):
    """Where regions at one y lie.

    Attributes:
        cells: Of each row of cells: its place in a column, and the number of its first cell.
        parts: Px of a column of places, and of the region. Two where the region goes on in the uppermost place.
        whole: Whether all of the region is filled.
    """

    cells: list[tuple[int, int]]
    parts: list[tuple[slice, slice]]
    whole: bool


class Run(NamedTuple):
    """Regions of one row, of which each lies a cell to the right of the one before.

    Attributes:
        first: The first of them.
        tiles: How many.
        step: From one to the next, in the order of the regions.
    """

    first: int
    tiles: int
    step: int


class CellLayout:
    """Places for cells of a level: columns of as many as a region can touch from top to bottom.

    Args:
        cell: (width, height) of a cell, px.
        grid: (columns, rows) of cells.
        extent: (width, height) of the level, px.
        size: (width, height) of the regions, px.
        budget: How many cells may be kept. Those of one region always are.

    Attributes:
        columns: Columns of places; the cells of column i of the level are kept in column i modulo these.
        rows: Places of each; likewise.
    """

    def __init__(
        self,
        cell: tuple[int, int],
        grid: tuple[int, int],
        extent: tuple[int, int],
        size: tuple[int, int],
        budget: int,
    ) -> None:
        self._cell, self._grid, self._extent, self._size = cell, grid, extent, size
        across, self.rows = (min(-(-side // px) + 1, most) for side, px, most in zip(size, cell, grid, strict=True))
        self.columns = min(max(budget // self.rows, across), grid[0])
        self._across, self._down = dict[int, Across](), dict[int, Down]()

    def of(self, xs: Sequence[int], ys: Sequence[int]) -> tuple[list[Across], list[Down]]:
        """Where regions lie whose top-left corners are at ``xs`` and ``ys``."""
        across, down = _looked_up(self._across, xs, self._at_x), _looked_up(self._down, ys, self._at_y)
        return [across[x] for x in xs], [down[y] for y in ys]

    def runs(self, xs: Sequence[int], across: Sequence[Across], down: Sequence[Down], some: Iterable[int]) -> list[Run]:
        """Put together which of ``some`` regions can be cut with one copy."""
        found, latest = list[Run](), dict[tuple[int, int], int]()
        for i in some:
            alike = id(down[i]), xs[i] % self._cell[0]
            at = latest.get(alike)
            if at is not None:
                first, count, step = found[at]
                step = step if count > 1 else i - first
                follows = across[first].begin + count == across[i].begin >= count
                if follows and down[i].whole and count < RUN_TILES and i == first + count * step:
                    found[at] = Run(first, count + 1, step)
                    continue
            latest[alike] = len(found)
            found.append(Run(i, 1, 1))
        return found

    def _at_x(self, x: int) -> Across:
        touched = _touched(x, self._size[0], self._cell[0], self._extent[0])
        places = [number % self.columns for number, _, _ in touched]
        to, whole = _filled(x, self._size[0], self._extent[0])
        return Across(
            [(place * self.rows, number) for place, (number, _, _) in zip(places, touched, strict=True)],
            [(place, slice(low, high)) for place, (_, low, high) in zip(places, touched, strict=True)],
            to,
            whole,
            places[0] if whole and places[-1] - places[0] == len(places) - 1 else -1,
        )

    def _at_y(self, y: int) -> Down:
        touched = _touched(y, self._size[1], self._cell[1], self._extent[1])
        parts: list[tuple[slice, slice]] = []
        at = max(-y, 0)
        for number, low, high in touched:
            top, count = number % self.rows * self._cell[1], high - low
            if parts and parts[-1][0].stop == top + low:
                parts[-1] = (slice(parts[-1][0].start, top + high), slice(parts[-1][1].start, at + count))
            else:
                parts.append((slice(top + low, top + high), slice(at, at + count)))
            at += count
        cells = [(number % self.rows, number * self._grid[0]) for number, _, _ in touched]
        return Down(cells, parts, _filled(y, self._size[1], self._extent[1])[1])


def _looked_up(known: dict[int, Where], places: Iterable[int], find: Callable[[int], Where]) -> dict[int, Where]:
    if len(known) > KNOWN:
        known.clear()
    for place in {*places}.difference(known):
        known[place] = find(place)
    return known


def _touched(start: int, length: int, cell: int, extent: int) -> list[tuple[int, int, int]]:
    """The cells along one axis that a region of ``length`` px touches: number, from which px of it, to which."""
    begin, end = max(start, 0), min(start + length, extent)
    return [
        (number, max(begin - number * cell, 0), min(end - number * cell, cell))
        for number in range(begin // cell, -(-end // cell) if begin < end else 0)
    ]


def _filled(start: int, length: int, extent: int) -> tuple[slice, bool]:
    """Which px of a region lie inside the level, and whether all do."""
    begin, end = max(start, 0), max(min(start + length, extent), max(start, 0))
    return slice(begin - start, end - start), end - begin == length
