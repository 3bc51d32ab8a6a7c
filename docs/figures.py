"""Makes the pictures of the stories, from what running them left in a folder.

    python docs/run.py --in docs-test docs/stories/character-and-style.md docs/stories/unsafe.md \
      docs/stories/contributors.md docs/stories/opt-out.md
    python docs/figures.py docs-test

Needs Chromium, which `make browser-test` installs. That of "six fingers" is made by its own story.
"""

from __future__ import annotations

import html
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from screens import crop, inline

from headwater.report import charts
from headwater.report.rendering import with_minus

STYLE = """<style>
body { margin: 0; font: 15px/1.35 sans-serif; color: #1b1b1b; background: white }
main { width: max-content; padding: 12px 16px } p { margin: 14px 0 6px } b { color: #0b6e80 }
section { display: flex; gap: 8px } figure { margin: 0; width: 96px }
figcaption { font-size: 11px; color: #555; margin-top: 3px }
img { image-rendering: pixelated; border-radius: 4px; display: block }
table { border-collapse: collapse } th { text-align: left; font-weight: 600 }
td, th { padding: 4px 18px 4px 0; vertical-align: middle }
td img { display: inline; margin-right: 3px }
tr:first-child { color: #555; font-size: 13px } svg { display: block; overflow: visible }
.hana img { outline: 4px solid #0b6e80; outline-offset: -4px }
.hana figcaption { color: #0b6e80; font-weight: bold }
</style><main>%s</main>"""
SHOWN = 8


def scores(answer: Path) -> Any:
    """All images of an answer to one question, the highest first."""
    (file,) = answer.rglob("scores.parquet")
    return pyarrow.parquet.read_table(file).to_pandas().sort_values("score", ascending=False)


def row(
    studio: Path, ids: Sequence[str], said: Callable[[str], str], marked: Sequence[str] = ()
) -> str:
    """Images of a folder side by side, each with what is said of it; some are marked."""
    figures = [
        f"<figure{' class=hana' if name in marked else ''}>{inline(Image.open(studio / name), 96)}"
        f"<figcaption>{html.escape(said(name))}</figcaption></figure>"
        for name in ids
    ]
    return f"<section>{''.join(figures)}</section>"


def character(page: Page, folder: Path) -> None:
    """Without which images the words would gain less, by the estimate."""
    parts = []
    for word in ("star", "hatched"):
        table = scores(folder / f"taught-{word}")
        caption = table.set_index("id")["caption"].to_dict().__getitem__
        said = f"by the estimate, without these the model would gain less from <b>{word}</b>"
        parts += [f"<p>{said}</p>", row(folder / "studio", list(table["id"][:SHOWN]), caption)]
    page.set_content(STYLE % "".join(parts))
    crop(page.locator("main"), "story-character")


def groups(page: Page, folder: Path, answer: str, name: str) -> None:
    """What groups of images scored, with standard errors and the strongest of each."""
    (result,) = (folder / answer).rglob("result.json")
    found = json.loads(result.read_text())["groups"]
    spans = charts.spans([each["score"] for each in found], [each["error"] for each in found])
    rows = [
        f"<tr><th>{html.escape(group['name'])}</th><td>{_bar(group, span)}</td>"
        f"<td>{with_minus(format(group['share'], '.0%'))} &plusmn; {group['share_error']:.0%}</td>"
        f"<td>{group['images']}</td><td>"
        + "".join(inline(Image.open(folder / "studio" / id), 48) for id in group["strongest"][:4])
        for group, span in zip(found, spans, strict=True)
    ]
    head = "<tr><th><td>score and standard error<td>share<td>images<td>the strongest"
    page.set_content(STYLE % f"<table>{head}{''.join(rows)}</table>")
    crop(page.locator("main"), name)


def _bar(group: dict[str, Any], span: charts.Span) -> str:
    """A score from zero, dark above it and pale below, and its standard error."""
    assert span.error is not None
    low, high = (3 * each for each in span.error)
    colour = "#0b6e83" if group["score"] > 0 else "#9aa4ab"
    return (
        f'<svg width="300" height="24"><rect x="{3 * span.x}" y="4" width="{3 * span.width}" '
        f'height="16" fill="{colour}"/><path d="M{3 * span.zero} 0V24" stroke="#626970"/>'
        f'<path d="M{low} 12H{high}M{low} 8V16M{high} 8V16" stroke="white" stroke-width="4"/>'
        f'<path d="M{low} 12H{high}M{low} 8V16M{high} 8V16" stroke="#1b1b1b" stroke-width="1.5"/>'
        "</svg>"
    )


def opted_out(page: Page, folder: Path) -> None:
    """The ten highest before and after; Hana's are marked."""
    lines = (folder / "studio/metadata.jsonl").read_text().splitlines()
    artist = {each["file_name"]: each["artist"] for each in map(json.loads, lines)}
    hers = [name for name, by in artist.items() if by == "Hana"]
    parts = []
    for when, said in (("before", "before Hana opted out"), ("after", "after")):
        ids = list(scores(folder / when)["id"][:10])
        parts += [f"<p>{said}</p>", row(folder / "studio", ids, artist.__getitem__, hers)]
    page.set_content(STYLE % "".join(parts))
    crop(page.locator("main"), "story-opt-out")


def main() -> None:
    """All pictures."""
    folder = Path(sys.argv[1])
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 900}, device_scale_factor=1.5)
        character(page, folder)
        groups(page, folder, "neon-rests-on", "story-unsafe-styles")
        groups(page, folder, "by-artist", "story-contributors")
        opted_out(page, folder)


if __name__ == "__main__":
    main()
