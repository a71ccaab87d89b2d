"""wsikit inspect: what is in a store, and what one row of it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsikit.store.row import Row

EXAMPLES = """Examples:

wsikit inspect cohort.zarr

wsikit inspect cohort.zarr a-slide

wsikit inspect cohort.zarr a-slide --row 17"""


def command(
    store: Annotated[str, typer.Argument(help="The feature store: a folder, or s3://BUCKET/NAME.")],
    slide: Annotated[str | None, typer.Argument(help="One slide of it.")] = None,
    row: Annotated[int | None, typer.Option(help="One row of the slide, from 0: the tile it stands for.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """What is in a store, of a slide, in a row: which tile it stands for, in pixels and micrometres."""
    from wsikit.cli._show import print_json, stdout_console
    from wsikit.errors import ConfigError
    from wsikit.store.reader import open_store
    from wsikit.store.row import describe_row

    opened = open_store(store)
    console = stdout_console()
    if row is not None:
        if slide is None:
            raise ConfigError("--row needs the slide: wsikit inspect STORE SLIDE --row K")
        described = describe_row(opened, slide, row)
        if json_:
            print_json(described)
            return
        lines = _row_lines(described)
    elif slide is None:
        names = opened.slide_ids
        facts = {**opened.attributes, "slides": names}
        if json_:
            print_json(facts)
            return
        tiling, tissue = opened.configuration["tiling"], opened.configuration["tissue"]
        lines = [
            f"{store}: wsikit feature store, version {facts['encoding-version']}, {len(names)} slides",
            f"tiles     {tiling['tile_px']} px at {tiling['target_mpp']} um per pixel, every {tiling['stride_px']} px, "
            f"with at least {tiling['min_tissue']:g} of their area on tissue",
            f"tissue    {tissue['method']}",
            *(f"slide     {name}: {', '.join(opened.keys(name)) or 'no features'}" for name in names),
        ]
    else:
        facts = {**opened.slide(slide), "features": {k: opened.encoder(slide, k) for k in opened.keys(slide)}}
        if json_:
            print_json(facts)
            return
        lines = _slide_lines(slide, facts, opened.coords(slide).tolist())
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _row_lines(row: Row) -> list[str]:
    (x, y), (width, height) = row.xy_level0, row.size_level0_px
    read = "as scanned" if row.resampler == "none" else f"resampled ({row.resampler})"
    return [
        f"{row.slide_id}, row {row.row}",
        f"pixels      level 0, {x} to {x + width:g} across and {y} to {y + height:g} down",
        f"place       {row.corner_um[0]:.1f} um right of and {row.corner_um[1]:.1f} um below the slide's top left; "
        f"{row.size_um[0]:.1f} x {row.size_um[1]:.1f} um",
        f"read        level {row.level}, {row.read_px[0]} x {row.read_px[1]} px; {read}",
        f"tile        {row.tile_px} x {row.tile_px} px of {row.achieved_mpp[0]:.6g} x {row.achieved_mpp[1]:.6g} um",
        *(f"quality     {name} {value:.3f}" for name, value in row.quality.items()),
        *(
            f"features    {key}: {status}" + (f", length {row.norm[key]:.4g}" if key in row.norm else "")
            for key, status in row.status.items()
        ),
    ]


def _slide_lines(slide: str, facts: dict, coords: list) -> list[str]:  # type: ignore[type-arg]
    if facts["reader"] == "arrays":
        made = [
            f"features    {key}: {one['card']['name']}, {one['card']['dim']}-d, {one['card']['source']}"
            for key, one in facts["features"].items()
        ]
        return [f"{slide}: {facts['counts']['kept']:,} rows that were not extracted by wsikit", *made]
    width, height = facts["size_level0_px"]
    x_um, y_um = (t * m for t, m in zip(facts["tile_level0_px"], facts["mpp"], strict=True))
    counts = facts["counts"]
    read = "read as scanned" if facts["resampler"] == "none" else f"resampled ({facts['resampler']})"
    lines = [
        f"{slide}: {facts['vendor']}, read by {facts['reader']}, {width} x {height} px at level 0",
        f"resolution  mpp {facts['mpp'][0]:.6g} x {facts['mpp'][1]:.6g} um per pixel ({facts['mpp_source']})",
        f"tissue      {facts['tissue']['area_mm2']:.2f} mm2, {100 * facts['tissue']['fraction']:.1f} % of the slide",
        f"tiles       {counts['kept']:,} kept, {counts['glass']:,} on glass, {counts['edge_tissue']:,} dropped at the "
        "edge",
        f"one tile    {facts['tile_px']} px of {facts['achieved_mpp'][0]:.6g} um = {x_um:.1f} x {y_um:.1f} um; level "
        f"{facts['level']}, {facts['read_px'][0]} x {facts['read_px'][1]} px of it, {read}",
    ]
    if coords:
        x, y = coords[0]
        tile_w, tile_h = facts["tile_level0_px"]
        x0, y0 = x * facts["mpp"][0] / 1000, y * facts["mpp"][1] / 1000
        lines.append(
            f"row 0       coords ({x}, {y}): level-0 px {x} to {x + tile_w:.0f} across and {y} to {y + tile_h:.0f} "
            f"down, its corner {x0:.3f} mm right of and {y0:.3f} mm below the slide's top left"
        )
    for key, made in facts["features"].items():
        card = made["card"]
        lines.append(f"features    {key}: {card['name']}, {card['dim']}-d, {card['licence']}, {card['source']}")
    return lines
