"""Answers as plain pages: each is there, nothing is loaded, and no caption is a script."""

import json
import re
import shutil

import pytest

from headwater import Concept, Image
from headwater.errors import StoreError
from headwater.report.export import write_answers
from headwater.report.journeys.trajectory import write_journey
from headwater.viewer.gallery import write_gallery

PROMPT = "a red star"


@pytest.fixture(scope="module")
def answered(sessions, tmp_path_factory):
    """Folders of answers: two concepts, and a journey."""
    out = tmp_path_factory.mktemp("answered")
    session = sessions["all"]
    concepts = [Concept(PROMPT, words, draws=2) for words in ("star", "red")]
    write_answers(session, session.attribute(concepts), out / "a" / "star", top=3)
    query = Image(PROMPT, draws=2, steps=4)
    steps = sessions["journeys"].attribute_steps(query)
    write_journey(sessions["journeys"], query, steps, out / "b" / "star", top=3)
    return [out / "a" / "star", out / "b" / "star"]


def test_each_answer_has_its_page(answered, tmp_path):
    page = write_gallery(tmp_path / "public", answered, "A <title>")
    text = page.read_text()
    links = re.findall(r'<a href="([^"]+)"', text)
    assert links == ["star.html", "star-2.html"]
    for link, folder in zip(links, answered, strict=True):
        assert (page.parent / link).read_text() == (folder / "report.html").read_text()
    assert "“star” in “a red star”" in text and "“red” in “a red star”" in text
    assert "each step of making “a red star”" in text
    assert "<h1>A &lt;title&gt;</h1>" in text and "concept-trak-unguided" in text
    assert text.count("<img") == 2 and not re.search(r'(src|href)="(https?:)?//', text)
    assert sorted(each.name for each in page.parent.iterdir()) == ["index.html", *sorted(links)]


def test_words_are_told_with_the_prompt_that_they_were_asked_of(answered, tmp_path):
    """Of a question that compares no two prompts, as of what words gain."""
    shutil.copytree(answered[0], tmp_path / "star")
    for file in tmp_path.glob("star/*/result.json"):
        result = json.loads(file.read_text())
        del result["plus"], result["minus"]
        file.write_text(json.dumps(result | {"prompt": PROMPT}))
    text = write_gallery(tmp_path / "public", [tmp_path / "star"], "Title").read_text()
    assert "“star” in “a red star”" in text and "“star” in “star”" not in text


def test_what_is_no_answer_is_refused(answered, tmp_path):
    with pytest.raises(StoreError, match=r"holds no report\.html: give a folder of answers"):
        write_gallery(tmp_path / "public", [tmp_path], "Title")
    assert not (tmp_path / "public").exists()
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(answered[0] / "report.html", bare)
    with pytest.raises(StoreError, match=r"holds no result\.json or journey\.json: ask"):
        write_gallery(tmp_path / "public", [bare], "Title")
    (bare / "result.json").write_text(json.dumps({"title": "star"}))
    with pytest.raises(StoreError, match="is no answer that could be compared"):
        write_gallery(tmp_path / "public", [bare], "Title")


def test_a_folder_that_cannot_be_written_is_named(answered, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*: name another folder"):
        write_gallery(tmp_path / "file", answered, "Title")
