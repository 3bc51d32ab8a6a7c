"""Takes the pictures of docs/images: what the demo found, its report, and the page state by state.

    headwater demo --out headwater-demo
    python docs/screens.py headwater-demo

Needs Chromium, which `make browser-test` installs. Beside the demo's index and answers it makes
what some states need: an index of the first images that serves journeys, the demo's without the
moons, an audit, and a gallery.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

import headwater

OUT = Path(__file__).parent / "images"
PROMPT = "a red star in hatched style on a striped background"
ASKED = f"/?prompt={PROMPT.replace(' ', '+')}&shown=6"
LINK = f"{ASKED}&concepts=star&concepts=hatched"
FEW = "300"  # images of the index that serves journeys
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
WAIT = 600_000


def shoot(page: Page, name: str, top: str = "") -> None:
    """What is seen now, or from the first of what `top` selects downwards and to the right."""
    size, left = page.viewport_size, 0.0
    assert size is not None
    page.wait_for_timeout(800)  # until what moves stands still
    if top:
        page.locator(top).first.evaluate("each => each.scrollIntoView({block: 'start'})")
        box = page.locator(top).first.bounding_box()
        left = max(0.0, (box["x"] if box else 0.0) - MARGIN)
    clip = {"x": left, "y": 0, "width": size["width"] - left, "height": size["height"]}
    save(page.screenshot(clip=clip), name)


def crop(shown: Locator, name: str) -> None:
    """One part of a page."""
    shown.scroll_into_view_if_needed()
    shown.page.wait_for_timeout(800)
    save(shown.screenshot(), name)


def save(png: bytes, name: str) -> None:
    """With 256 colours, which a page has few more of."""
    file = OUT / f"{name}.png"
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
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
    query = Image.open(demo / "answers/query.png")
    parts = [f"<figure>{inline(query, 200)}<figcaption>what the model drew</figcaption></figure>"]
    for word in ("star", "hatched"):
        table = pyarrow.parquet.read_table(demo / "answers" / word / "scores.parquet")
        scores = table.to_pandas().sort_values("score", ascending=False)
        shown = [inline(images.image(row_of[each]), 96) for each in scores["id"][:SHOWN]]
        said = f"by the estimate, without these the model would gain less from <b>{word}</b>"
        parts.append(f"<section><p>{said}</p>{''.join(shown)}</section>")
    page.set_content(FIGURE % "".join(parts))
    crop(page.locator("main"), "concepts")


def files(page: Page, demo: Path) -> None:
    """What opens without a server: reports, a gallery."""
    page.goto((demo / "answers/report.html").resolve().as_uri())
    shoot(page, "report")
    page.set_viewport_size({"width": 1120, "height": 880})
    page.goto((demo / "along/report.html").resolve().as_uri())
    shoot(page, "report-journey", "h2:text-is('Step by step')")
    page.set_viewport_size({"width": 1120, "height": 560})
    page.goto((demo / "audit/report.html").resolve().as_uri())
    shoot(page, "audit", "h2:text-is('Images that show what their caption does not say')")
    page.goto((demo / "gallery/index.html").resolve().as_uri())
    shoot(page, "gallery", "h1")


def ask(page: Page, link: str) -> None:
    """Opens the page with a question, and waits for the answer of all its draws."""
    page.goto(link)
    page.locator(".hw-status", has_text="32 draws").filter(has_not_text="being made").wait_for()


def answers(page: Page, address: str) -> None:
    """An answer, an image of it, and the answer without that."""
    ask(page, address + LINK)
    page.locator(".hw-pictures img").nth(2).wait_for()
    page.set_viewport_size({"width": 1280, "height": 1280})
    shoot(page, "page-answer")
    page.set_viewport_size({"width": 1280, "height": 700})
    page.locator("#answers .hw-card").first.click()
    page.locator(".hw-detail table").wait_for()
    page.get_by_text("Nearest neighbours").wait_for()
    shoot(page, "page-image", ".hw-detail")
    page.get_by_role("button", name="Leave the chosen image out").click()
    page.locator(".left-out").first.wait_for()
    shoot(page, "page-left-out", "#answers h2")
    page.get_by_role("tab", name="Distribution").click()
    page.locator("#distribution .histogram svg").first.wait_for()
    shoot(page, "page-distribution", "#distribution")


def beside(page: Page, address: str) -> None:
    """What is kept, how else it could be asked, and the same of an index without some images."""
    ask(page, address + LINK)
    page.get_by_role("button", name="Choices").click()
    choices = page.locator(".block", has=page.get_by_label("Damping", exact=True))
    crop(choices.first, "page-choices")
    page.get_by_role("tab", name="Keep").click()
    page.get_by_role("button", name="Write the report and all scores").click()
    page.locator("#files a[download]").first.wait_for()
    crop(page.locator("[role=tabpanel]:visible", has=page.locator("#files")), "page-keep")
    page.set_viewport_size({"width": 1280, "height": 560})
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Ask the other the same").click()
    page.locator(".hw-status", has_text="beside").wait_for()
    shoot(page, "page-compare", "[role=tabpanel]:visible .hw h2")


def journey(page: Page, address: str) -> None:
    """A step of a picture's making."""
    page.goto(f"{address}{ASKED}&index=journey-index")
    page.get_by_label("star", exact=True).wait_for()  # the prompt is read
    page.set_viewport_size({"width": 1280, "height": 640})
    page.get_by_role("tab", name="Journey").click()
    page.get_by_role("button", name="Follow the picture's making").click()
    page.get_by_role("heading", name="Step 1 of").wait_for()
    page.get_by_role("slider", name="range slider for Step").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Step 5 of").wait_for()
    shoot(page, "page-journey", "[role=tabpanel]:visible:has(h2:text-is('Step 5 of 10'))")


def asking(page: Page, address: str, picture: Path) -> None:
    """A question that is none, and a part of a picture that is painted."""
    page.goto(address)
    page.locator(".hw-status", has_text="Write a prompt").wait_for()
    page.locator("#ask").click()
    crop(page.locator(".hw-error"), "page-error")
    page.get_by_role("tab", name="A picture").click()
    page.locator("#painted canvas").first.wait_for()
    page.wait_for_function("document.querySelector('#painted canvas').width > 0")
    larger = io.BytesIO()  # or the brush would cover it
    Image.open(picture).resize((512, 512), Image.Resampling.NEAREST).save(larger, "png")
    given = {"name": "given.png", "mimeType": "image/png", "buffer": larger.getvalue()}
    page.locator("#painted input[type=file]").set_input_files([given])
    page.locator("#painted").get_by_label("Brush", exact=True).click()
    box = page.locator("#painted canvas").first.bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] - 50, middle[1] - 5)
    page.mouse.down()
    for dx, dy in ((30, -25), (-30, 10), (35, 15), (-30, 35), (25, 40)):
        page.mouse.move(middle[0] + dx, middle[1] + dy, steps=8)
    page.mouse.up()
    page.get_by_label("What it is a picture of").fill("a red star")
    crop(page.locator("[role=tabpanel]:visible", has=page.locator("#painted")), "page-mask")


def telephone(page: Page, address: str) -> None:
    """An answer on a narrow page, in the dark."""
    page.set_viewport_size({"width": 375, "height": 800})
    page.emulate_media(color_scheme="dark")
    ask(page, address + LINK)
    shoot(page, "page-telephone", "#answers")


def login(page: Page, address: str) -> None:
    """What a page with `--auth` asks for first."""
    page.goto(address)
    page.get_by_role("button", name="Login").wait_for()
    shoot(page, "page-login")


def run(*command: str | Path) -> None:
    """A command of headwater."""
    subprocess.run([sys.executable, "-m", "headwater", *map(str, command)], check=True)


def prepare(demo: Path) -> None:
    """What some states need besides the demo; what is there already is left as it is."""
    journeys, without = demo / "journey-index", demo / "without-moons"
    if not (journeys / "index.json").exists():
        run("index", "scenes", "scenes", journeys, "--method", "trak", "--limit", FEW)
    if not without.exists():
        shutil.copytree(demo / "scenes-index", without)
        run("remove", without, "--where", "caption contains moon", "--why", "opted out")
    if not (demo / "along").exists():
        run("concept", journeys, PROMPT, "--concept", "star", "--journey", "--out", demo / "along")
    if not (demo / "audit").exists():
        run("audit", journeys, "--out", demo / "audit")
    if not (demo / "gallery").exists():
        folders = [demo / "answers", demo / "along"]
        run("gallery", demo / "gallery", *folders, "--title", "What taught our model this?")


@contextmanager
def opened(*options: str | Path) -> Iterator[str]:
    """A page on indexes, by its address."""
    command = [sys.executable, "-m", "headwater", "view", *map(str, options), "--port", PORT]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        found = (re.search(r"http://\S+", line) for line in server.stderr)
        yield next(address[0] for address in found if address)
    finally:
        server.terminate()
        server.communicate()


def main() -> None:
    """Make what is to be seen, open the page, take the pictures, close it."""
    OUT.mkdir(exist_ok=True)
    demo, size = Path(sys.argv[1]), {"width": 1280, "height": 900}
    indexes = [demo / name for name in ("scenes-index", "journey-index", "without-moons")]
    prepare(demo)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def fresh(**options: Any) -> Page:
            page = browser.new_page(viewport=options.pop("viewport", size), **options)
            page.set_default_timeout(WAIT)
            return page

        figure(fresh(device_scale_factor=2), demo)
        files(fresh(), demo)
        with opened(*indexes) as address:
            for take in (answers, beside, journey, telephone):
                take(fresh(), address)
            asking(fresh(), address, demo / "answers/query.png")
        with opened(indexes[0], "--auth", "user:password") as address:
            login(fresh(viewport={"width": 640, "height": 420}), address)


if __name__ == "__main__":
    main()
