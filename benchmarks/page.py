"""How long a person waits for the page: until it is up, for first pictures, for another damping.

    headwater demo --out headwater-demo
    python benchmarks/page.py headwater-demo/scenes-index

Needs Chromium, which `make browser-test` installs. The index is copied without the questions that
were asked of it, so that each is new; its kernel is kept. Seconds, as the browser sees them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PROMPT = "a red star in hatched style on a striped background"
PORT = "7868"
WAIT = 300_000


def timed(what: str, until: Callable[[], object]) -> None:
    """Prints how long it takes until something is seen."""
    begun = time.perf_counter()
    until()
    print(f"{what:46} {time.perf_counter() - begun:6.2f} s", flush=True)


def asks(page: Page, word: str, others: int) -> None:
    """Chooses a word, and asks once the page has told the prompt without it."""
    page.get_by_label(word, exact=True).check()
    page.wait_for_function(
        "n => document.querySelector('#against textarea').value.split('\\n').length == n",
        arg=others + 1,
    )
    page.locator("#ask").click()


def walk(page: Page) -> None:
    """One visit: a concept, a second one, another damping, more draws."""
    status = page.locator(".hw-status")
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("star", exact=True).wait_for()
    asks(page, "star", 0)
    timed("first pictures of a concept, the model to load", page.locator(".hw-card").first.wait_for)
    timed(
        "... its whole answer, 32 draws, from then on", status.filter(has_text="32 draws,").wait_for
    )
    asks(page, "hatched", 1)
    heading = page.locator("#answers h2", has_text="hatched")
    timed("first pictures of a second concept", heading.wait_for)
    timed("... its whole answer", status.filter(has_text="32 draws,").wait_for)
    page.get_by_role("button", name="Choices").click()
    page.get_by_label("Damping", exact=True).click()
    before = page.locator("#answers").inner_html()
    page.get_by_role("option", name="3", exact=True).click()
    changed = "old => document.querySelector('#answers').innerHTML != old"
    timed("another damping", lambda: page.wait_for_function(changed, arg=before))


def main() -> None:
    """Copy the index, open the page, walk through it."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder, "index")
        shutil.copytree(sys.argv[1], index, ignore=shutil.ignore_patterns("queries"))
        command = [sys.executable, "-m", "headwater", "view", str(index), "--port", PORT]
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.set_default_timeout(WAIT)
            begun = time.perf_counter()
            server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert server.stderr is not None
            try:
                opened = (re.search(r"http://\S+", line) for line in server.stderr)
                page.goto(next(found[0] for found in opened if found))
                page.locator(".hw-status", has_text="Write a prompt").wait_for()
                print(f"{'the page is up':46} {time.perf_counter() - begun:6.2f} s", flush=True)
                walk(page)
            finally:
                server.terminate()
                server.communicate()


if __name__ == "__main__":
    main()
