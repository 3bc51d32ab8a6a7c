"""Takes the pictures of docs/images: the page on an index of the scenes, state by state.

    headwater demo --out headwater-demo
    python docs/screens.py headwater-demo/scenes-index

Needs Chromium, which `make browser-test` installs.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

OUT = Path(__file__).parent / "images"
LINK = (
    "/?prompt=a+red+star+in+hatched+style+on+a+striped+background&concepts=star&concepts=hatched"
    "&shown=6"
)
PORT = "7869"
WAIT = 120_000


def shoot(page: Page, name: str) -> None:
    """What is seen now, as a file of few colours: it is drawings and text."""
    file = OUT / f"{name}.png"
    page.wait_for_timeout(800)  # until what moves stands still
    page.screenshot(path=file)
    print(file)


def take(page: Page, address: str) -> None:
    """Every state once."""
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.locator(".hw-status", has_text="Write a prompt").wait_for()
    shoot(page, "page-fresh")
    page.goto(address + LINK)
    page.locator(".hw-status", has_text="32 draws,").wait_for()
    page.locator(".hw-pictures img").nth(2).wait_for()
    shoot(page, "page-answer")
    page.locator("#answers .hw-card").first.click()
    page.locator(".hw-detail table").wait_for()
    shoot(page, "page-image")
    page.get_by_role("button", name="Leave the chosen image out").click()
    page.locator(".hw-estimate").first.wait_for()
    page.locator(".hw-estimate").first.scroll_into_view_if_needed()
    shoot(page, "page-left-out")
    page.get_by_role("tab", name="Distribution").click()
    page.locator("#distribution .histogram svg").first.scroll_into_view_if_needed()
    shoot(page, "page-distribution")
    page.set_viewport_size({"width": 375, "height": 800})
    page.emulate_media(color_scheme="dark")
    page.goto(address + LINK)
    page.locator(".hw-status", has_text="32 draws,").wait_for()
    page.locator("#answers").scroll_into_view_if_needed()
    shoot(page, "page-telephone")


def main() -> None:
    """Open the page, take the pictures, close it."""
    OUT.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "headwater", "view", sys.argv[1], "--port", PORT]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        opened = (re.search(r"http://\S+", line) for line in server.stderr)
        address = next(found[0] for found in opened if found)
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take(browser.new_page(viewport={"width": 1280, "height": 900}), address)
    finally:
        server.terminate()
        server.communicate()


if __name__ == "__main__":
    main()
