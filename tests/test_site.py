"""The documentation as a site: every page has its place, and every link leads to something.

`make docs` builds it, and takes warnings for errors.
"""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent


def pages_of(nav) -> list[str]:
    """Every page that a table of contents names."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages_of(part)]


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "docs" / "site.py"))


def test_the_table_of_contents_has_every_page_once(script):
    nav = tomllib.loads((ROOT / "docs/zensical.toml").read_text())["project"]["nav"]
    assert sorted(pages_of(nav)) == sorted(script["pages"]().values())


def test_links_hold_in_the_site(script, tmp_path):
    script["stage"](tmp_path)
    for page in tmp_path.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            place = (page.parent / link).resolve()
            assert place.exists() and place.is_relative_to(tmp_path), (page, link)


def test_commands_and_functions_are_all_there(script, tmp_path):
    script["stage"](tmp_path)
    commands = (tmp_path / "reference/commands.md").read_text()
    for name in ("index", "concept", "view", "evaluate lds"):
        assert f"## `headwater {name}`\n" in commands
    python = (tmp_path / "reference/python.md").read_text()
    assert "::: headwater.attribution.session.Session" in python
    assert "::: headwater.queries.concept.Concept" in python


def test_what_leads_out_of_the_pages_is_named(script, tmp_path):
    text = "[code](../../src/headwater/errors.py), [changes](../../CHANGELOG.md#x), [here](lora.md)"
    places, page = script["pages"](), ROOT / "docs/start/page.md"
    shown = script["relinked"](text, page, places, tmp_path)
    code = "code (`src/headwater/errors.py`)"
    assert shown == f"{code}, [changes](../changelog.md#x), [here](lora.md)"
    with pytest.raises(FileNotFoundError, match=r"docs/start/page\.md: nowhere\.md"):
        script["relinked"]("[x](nowhere.md)", page, places, tmp_path)


def test_a_folder_of_something_else_is_left_alone(script, tmp_path):
    (tmp_path / "zensical.toml").write_text("as in docs/")
    with pytest.raises(SystemExit, match="holds something that is no site"):
        script["main"](tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["zensical.toml"]


def test_a_build_that_failed_can_be_made_again(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script["subprocess"], "run", lambda *args, **options: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            script["main"](tmp_path / "site")


def test_the_notebook_is_one():
    notebook = json.loads((ROOT / "docs/start/scenes.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), cell["id"], "exec")
            assert not cell["outputs"]
