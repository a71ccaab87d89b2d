"""The page of a large run: small, and a browser draws one sheet of it at first."""

from __future__ import annotations

from html.parser import HTMLParser

from wsikit.extract.outcome import SlideOutcome
from wsikit.extract.pictures import SHEET_SLIDES, picture_path, write_page


class Page(HTMLParser):
    """Counts slides in open and in folded sheets, and pictures that a browser would load at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sheets, self.eager, self.links = [], 0, set()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "details":
            self.sheets.append(["open" in found, 0])
        elif tag == "figure":
            self.sheets[-1][1] += 1
        elif tag == "img":
            self.eager += found.get("loading") != "lazy" or found["src"].startswith("data:")
            self.links.add(found["src"])


def test_a_page_of_ten_thousand_slides(tmp_path):
    ids = [f"s{number:05d} & co" for number in range(10_000)]
    states = dict.fromkeys(ids, "done") | dict.fromkeys(ids[40::1000], "unreadable")
    for slide_id in ids[:3]:
        picture_path(tmp_path, slide_id).parent.mkdir(exist_ok=True)
        picture_path(tmp_path, slide_id).touch()
    outcomes = [SlideOutcome(s, state, reason="" if state == "done" else "why <so>") for s, state in states.items()]
    text = write_page(tmp_path, "large", outcomes).read_text()
    page = Page()
    page.feed(text)
    assert page.sheets == [[True, SHEET_SLIDES], *[[False, SHEET_SLIDES]] * (len(ids) // SHEET_SLIDES - 1)]
    assert page.eager == 0
    assert page.links == {f"overlays/s0000{i}%20%26%20co.jpg" for i in range(3)}
    assert len(text) < 3e6
    assert "10000 slides, 9990 done, 10 not" in text
    assert "1 to 200: 10 not done, 190 done" in text
    assert (
        "201 to 400: s00191 &amp; co to s00390 &amp; co" in text
    )  # 190 that are done stand before them, without s00040
    assert text.index("why &lt;so&gt;") < text.index("s00000 &amp; co")
