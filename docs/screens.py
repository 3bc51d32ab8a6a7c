"""Takes the pictures of docs/images: what the demo found, its report, and the page state by state.

    headwater demo --out headwater-demo
    python docs/screens.py headwater-demo

Needs Chromium, which `make browser-test` installs.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import headwater

OUT = Path(__file__).parent / "images"
LINK = (
    "/?prompt=a+red+star+in+hatched+style+on+a+striped+background&concepts=star&concepts=hatched"
    "&shown=6"
)
FIGURE = """<style>
body { margin: 0; font: 17px/1.4 sans-serif; color: #1b1b1b; background: white }
main { display: grid; grid-template-columns: 200px max-content; gap: 0 44px; width: max-content;
  padding: 16px 16px 8px; align-items: center }
figure { margin: 0; grid-row: span 2 } figcaption { margin-top: 8px; font-size: 15px }
section { margin: 7px 0 } p { margin: 0 0 5px } b { color: #0b6e80 }
img { image-rendering: pixelated; border-radius: 4px; margin-right: 7px }
</style><main>%s</main>"""
SHOWN = 7
MARGIN = 24
PORT = "7869"
WAIT = 300_000


def shoot(page: Page, name: str, top: str = "") -> None:
    """What is seen now, or from the first of what `top` selects downwards and to the right."""
    file, size, left = OUT / f"{name}.png", page.viewport_size, 0.0
    assert size is not None
    page.wait_for_timeout(800)  # until what moves stands still
    if top:
        page.locator(top).first.evaluate("each => each.scrollIntoView({block: 'start'})")
        box = page.locator(top).first.bounding_box()
        left = max(0.0, (box["x"] if box else 0.0) - MARGIN)
    clip = {"x": left, "y": 0, "width": size["width"] - left, "height": size["height"]}
    page.screenshot(path=file, clip=clip)
    print(file)


def inline(picture: Image.Image, size: int) -> str:
    """A picture as a tag."""
    file = io.BytesIO()
    picture.save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img width="{size}" src="data:image/png;base64,{data}">'


def figure(page: Page, demo: Path) -> None:
    """The picture that was asked about, and the strongest proponents of each of its concepts."""
    images = headwater.load_dataset("scenes")
    row_of = {sample.id: row for row, sample in enumerate(images.samples)}
    query = Image.open(next(demo.rglob("query.png")))
    parts = [f"<figure>{inline(query, 200)}<figcaption>what the model drew</figcaption></figure>"]
    for word in ("star", "hatched"):
        (file,) = demo.rglob(f"{word}*/scores.parquet")
        scores = pyarrow.parquet.read_table(file).to_pandas().sort_values("score", ascending=False)
        shown = [inline(images.image(row_of[each]), 96) for each in scores["id"][:SHOWN]]
        said = f"without these images, the model would gain less from the word <b>{word}</b>"
        parts.append(f"<section><p>{said}</p>{''.join(shown)}</section>")
    page.set_content(FIGURE % "".join(parts))
    page.locator("main").screenshot(path=OUT / "concepts.png")
    print(OUT / "concepts.png")


def report(page: Page, demo: Path) -> None:
    """The top of the demo's report."""
    page.goto(next(demo.rglob("report.html")).resolve().as_uri())
    shoot(page, "report")


def take(page: Page, address: str) -> None:
    """Every state once."""
    page.set_default_timeout(WAIT)
    page.goto(address + LINK)
    page.locator(".hw-status", has_text="32 draws,").wait_for()
    page.locator(".hw-pictures img").nth(2).wait_for()
    page.set_viewport_size({"width": 1280, "height": 1280})
    shoot(page, "page-answer")
    page.set_viewport_size({"width": 1280, "height": 700})
    page.locator("#answers .hw-card").first.click()
    page.locator(".hw-detail table").wait_for()
    shoot(page, "page-image", ".hw-detail")
    page.get_by_role("button", name="Leave the chosen image out").click()
    page.locator(".left-out").first.wait_for()
    shoot(page, "page-left-out", "#answers h2")
    page.get_by_role("tab", name="Distribution").click()
    page.locator("#distribution .histogram svg").first.wait_for()
    shoot(page, "page-distribution", "#distribution")
    page.set_viewport_size({"width": 375, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.goto(address + LINK)
    page.locator(".hw-status", has_text="32 draws,").wait_for()
    shoot(page, "page-telephone", "#answers")


def main() -> None:
    """Open the page, take the pictures, close it."""
    OUT.mkdir(exist_ok=True)
    demo = Path(sys.argv[1])
    command = [sys.executable, "-m", "headwater", "view", str(demo / "scenes-index")]
    command += ["--port", PORT]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        opened = (re.search(r"http://\S+", line) for line in server.stderr)
        address = next(found[0] for found in opened if found)
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            size = {"width": 1280, "height": 900}
            figure(browser.new_page(viewport=size, device_scale_factor=2), demo)
            report(browser.new_page(viewport=size), demo)
            take(browser.new_page(viewport=size), address)
    finally:
        server.terminate()
        server.communicate()


if __name__ == "__main__":
    main()
