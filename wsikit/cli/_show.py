"""Progress bars and tables of the commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsikit.cli._bar import Bar
from wsikit.extract.run import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from wsikit.cohort.split_audit import SplitAudit
    from wsikit.evaluation.result import CrossvalResult, SubgroupResult
    from wsikit.extract.checkup import SlideCheck
    from wsikit.extract.outcome import SlideOutcome
    from wsikit.extract.run import RunReport
    from wsikit.extract.status import SlideStatus, StoreStatus

LOG_EVERY_S = 30.0
"""Where there is no terminal (a SLURM log), a line this often instead of a bar."""


class LiveProgress(Bar, Progress):
    """Slides, tiles, tiles/s and time left, as a bar in a terminal and as lines in a log."""

    def __init__(self) -> None:
        super().__init__("rate")
        self._slides = self._bar.add_task("slides", total=None, rate="")
        self._tiles = self._bar.add_task("tiles ", total=0, rate="")
        self._total_slides = self._done_slides = self._planned_slides = self._failed = 0
        self._total_tiles = self._done_tiles = 0
        self._began = 0.0  # the first tiles: starting workers and finding tissue say nothing of the rate
        self._before = 0  # how many those were
        self._logged = time.monotonic()

    def slides(self, total: int) -> None:
        """How many slides there are."""
        self._total_slides, self._began, self._before = total, 0.0, 0
        self._done_slides = self._planned_slides = self._failed = self._total_tiles = self._done_tiles = 0
        self._bar.reset(self._slides)
        self._bar.reset(self._tiles, total=0)
        self._bar.update(self._slides, total=total)

    def planned(self, slide_id: str, tiles_to_do: int) -> None:
        """A slide is planned: its tiles are known, and those of the rest are guessed from the mean so far."""
        self._planned_slides += 1
        self._total_tiles += tiles_to_do
        guess = round(self._total_tiles * self._total_slides / self._planned_slides)
        self._bar.update(self._tiles, total=guess)

    def tiles(self, count: int) -> None:
        """So many tiles more are encoded."""
        if not self._began:
            self._began, self._before = time.monotonic(), count
        self._done_tiles += count
        self._bar.update(self._tiles, completed=self._done_tiles, rate=f"{self._rate():,.0f} tiles/s")
        self._log()

    def finished(self, outcome: SlideOutcome) -> None:
        """Nothing more will happen to this slide."""
        self._done_slides += 1
        self._failed += not outcome.ok
        self._bar.update(self._slides, advance=1, rate=f"{self._failed} failed" if self._failed else "")
        if not outcome.ok:
            self._console.print(f"[red]{outcome.state}[/red] {outcome.slide_id}", highlight=False)

    def _rate(self) -> float:
        return (self._done_tiles - self._before) / max(time.monotonic() - self._began, 1.0)

    def _log(self) -> None:
        now = time.monotonic()
        if self._console.is_terminal or now - self._logged < LOG_EVERY_S:
            return
        self._logged = now
        guess = self._total_tiles * self._total_slides / max(1, self._planned_slides)
        left_s = max(0.0, guess - self._done_tiles) / max(self._rate(), 1e-9)
        left = f"about {left_s / 60:.0f} min left" if self._rate() else "time left not known yet"
        self.say(
            f"{self._done_slides} of {self._total_slides} slides, {self._done_tiles:,} tiles, "
            f"{self._rate():,.0f} tiles/s, {left}, {self._failed} failed"
        )


def stderr_console() -> Console:
    """A console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True)


def print_json(value: object) -> None:
    """JSON on standard output; dataclasses as objects."""
    import dataclasses
    import json

    def plain(item: object) -> object:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.asdict(item)
        return str(item)

    print(json.dumps(value, default=plain, indent=1))


def stdout_console() -> Console:
    """A console for tables; wide enough in a log that no reason is cut."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def results_table(report: RunReport) -> None:
    """The per-slide table of a run, what it amounts to, and where to look next."""
    from rich.table import Table

    console = stdout_console()
    table = Table(title=f"{report.store.name} ({', '.join(report.keys)})", title_justify="left")
    for name in ("slide", "state"):
        table.add_column(name, overflow="fold")
    for name in ("tiles", "unreadable", "dropped", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("reason", overflow="fold", ratio=1)
    shown = report.outcomes if len(report.outcomes) <= 40 else [o for o in report.outcomes if not o.ok]
    for o in shown:
        state = f"[green]{o.state}[/green]" if o.ok else f"[red]{o.state}[/red]"
        table.add_row(
            o.slide_id, state, f"{o.tiles:,}", f"{o.unreadable:,}", f"{o.dropped:,}", f"{o.seconds:.1f}",
            " ".join(o.reason.split()),
        )  # fmt: skip
    console.print(table)
    good = sum(o.ok for o in report.outcomes)
    bad = len(report.outcomes) - good
    if len(shown) < len(report.outcomes):
        console.print(f"({good} slides that are done are not shown; all are in slides.csv)")
    tiles = sum(o.tiles - o.unreadable for o in report.outcomes)
    pace = f" ({report.tiles_per_s:,.0f} read per second)" if report.tiles_per_s else ""
    console.print(f"{good} slides done, {bad} not; {tiles:,} tiles have features{pace}.", highlight=False)
    for agreement in report.agreements:
        console.print(str(agreement), highlight=False, markup=False)
    if report.waited > 0.2:
        console.print(
            f"The encoder waited for tiles in {report.waited:.0%} of the time: give each worker more --reader-threads, "
            "or more --workers where cores are idle; --no-quality spares them work; where slides are on a network "
            "disk, --stage copies them ahead.",
            highlight=False,
        )
    console.print(f"store     {report.store}", highlight=False, soft_wrap=True)
    console.print(f"pictures  {report.report / 'index.html'}", highlight=False, soft_wrap=True)
    console.print(f"tables    {report.report / 'slides.csv'}", highlight=False, soft_wrap=True)


def doctor_table(console: Console, checks: Sequence[SlideCheck]) -> None:
    """One row per slide that was looked at."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("slide", "state"):
        table.add_column(name, overflow="fold")
    for name in ("tiles", "dropped", "read", "mpp"):
        table.add_column(name, justify="right")
    table.add_column("stain")
    table.add_column("what to know", overflow="fold", ratio=1)
    for c in checks:
        read = f"{c.sampled - c.unreadable}/{c.sampled}"
        mpp = f"{c.mpp[0]:.4g}" if c.mpp else "-"
        reason = c.reason.removeprefix(f"slide {c.slide_id}: ")
        said = " ".join("; ".join([reason, *c.remarks] if reason else c.remarks).split())
        state = Text(c.state, "green" if c.ok else "red")
        # Text, not markup: a file name may hold brackets
        table.add_row(Text(c.slide_id), state, f"{c.tiles:,}", f"{c.dropped:,}", read, mpp, c.stain, Text(said))
    console.print(table)


def status_table(console: Console, rows: Sequence[SlideStatus]) -> None:
    """One row per slide and encoder, or nothing."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("slide", "features", "state", "tiles", "shards", "reason"):
        table.add_column(name, overflow="fold")
    for r in rows:
        shards = f"{r.shards_done}/{r.shards}"
        table.add_row(Text(r.slide_id), r.key, r.state, f"{r.tiles:,}", shards, Text(" ".join(r.reason.split())))
    if rows:
        console.print(table)


def status_lines(status: StoreStatus) -> list[str]:
    """How far, how fast, how long still, and whose run it is."""
    from wsikit.extract.doctor import time_words

    done, left = status.count("done"), status.count("waiting") + status.count("unfinished")
    tiles = sum(r.tiles for r in status.slides if r.state == "done")
    lines = [f"{done} done ({tiles:,} tiles), {len(status.slides) - done - left} failed, {left} remaining"]
    if status.running:
        pace = "pace not known yet" if status.tiles_per_s is None else f"{status.tiles_per_s:,.0f} tiles/s"
        if status.seconds_left is not None:
            pace += f", about {time_words(status.seconds_left / 3600)} left"
        lines.append(f"{status.tiles_done:,} tiles finished, about {status.tiles_left:,} to do; {pace}")
    lines += [str(agreement) for agreement in status.agreements]
    return [*lines, f"running now: {status.running or 'nothing'}"]


def metrics_table(console: Console, result: CrossvalResult) -> None:
    """Every metric of the model, the main one of the baselines, and the differences, with intervals."""
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("model", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("value", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    blocks = [(result.model.name, result.model.metrics), *((m.name, m.metrics[:1]) for m in result.baselines)]
    for name, metrics in [*blocks, ("difference", result.differences)]:
        for metric in metrics:
            value = "-" if metric.value is None else f"{metric.value:.3f}"
            interval = metric.interval
            ends = f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""
            table.add_row(name, metric.name, value, ends, metric.note)
    console.print(table)
    if result.log_rank is not None:
        test = result.log_rank
        console.print(
            f"risk groups at the training folds' medians: log-rank p = {test.p_permutation:.4f} by permutation",
            highlight=False,
        )
    subgroups_table(console, result.subgroups)
    console.print(
        "intervals, unless noted: over patients, conditional on the fitted models; pairs compared inside folds only"
    )


def subgroups_table(console: Console, groups: Sequence[SubgroupResult]) -> None:
    """The main metric of every subgroup, or nothing; all metrics are in ``subgroups.csv`` and the report."""
    from rich.table import Table
    from rich.text import Text

    if not groups:
        return
    table = Table(title=f"{groups[0].metrics[0].name} among some of the patients", title_justify="left", box=None)
    for name in ("column", "group"):
        table.add_column(name, overflow="fold")
    for name in ("patients", "value", "95 % interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    for group in groups:
        main = group.metrics[0]
        value = "-" if main.value is None else f"{main.value:.3f}"
        ends = f"{main.interval.low:.3f} to {main.interval.high:.3f}" if main.interval else ""
        # Text, not markup: a value of the table may hold brackets
        table.add_row(Text(group.column), Text(group.name), str(len(group.rows)), value, ends, Text(main.note))
    console.print(table)


def audit_table(console: Console, audit: SplitAudit) -> None:
    """A row for each fold, then every leak and remark."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    table.add_column("fold")
    for name in ("tested", "others"):
        table.add_column(name, justify="right")
    table.add_column("tested / others")
    if audit.site:
        table.add_column(f"sites ({audit.site})", justify="right")
        table.add_column("also in training", justify="right")
    for fold in audit.folds:
        made = ", ".join(f"{name} {tested:g} / {rest:g}" for name, tested, rest in fold.balance)
        row = [str(fold.number + 1), str(fold.tested), str(fold.rest), made]
        if audit.site:
            row += [str(len(fold.sites)), f"{len(fold.shared_sites)} ({fold.from_shared} patients)"]
        table.add_row(*map(Text, row))
    console.print(table)
    for leak in audit.leaks:
        console.print(Text(f"LEAK: {leak}", "red"), soft_wrap=True)
    for remark in audit.remarks:
        console.print(Text(remark), soft_wrap=True)
    if not audit.site:
        console.print("sites: not known; name a column of the table with --site", highlight=False)
    if not audit.leaks:
        looked = "patient, site or slide" if audit.site else "patient or slide"
        console.print(f"no leak found: no {looked} is on both sides of a fold", highlight=False)
