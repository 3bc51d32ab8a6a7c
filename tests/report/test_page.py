"""A page is complete in itself and shows its pictures and its provenance."""

import re

import numpy as np
import pytest
from PIL import Image
from support.report import ParsedPage, answer, colour, embedded, entry, report

from headwater.report.page import flatten


def test_nothing_is_loaded_from_elsewhere():
    page = report(
        answer(bottom=[entry(4, score=-1.0, image=None)]),
        pictures=[("", Image.new("RGB", (300, 200)))],
    )
    assert not re.search(r"https?:|//[a-z]|@import|url\(|xmlns", page)
    for tag, attributes in ParsedPage(page).elements:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not {"srcset", "action", "data", "poster", "xlink:href"} & set(attributes)
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    policy = {"http-equiv": "Content-Security-Policy"}.items()
    (content,) = [m["content"] for m in ParsedPage(page).all("meta") if policy <= m.items()]
    assert content.startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("size", "query", "grid", "pixels"),
    [
        ((16, 16), (16, 16), (16, 16), True),
        ((128, 100), (128, 100), (128, 100), True),
        ((129, 100), (129, 100), (129, 100), False),
        ((2000, 1000), (512, 256), (384, 192), False),
        ((1, 2000), (1, 512), (1, 384), False),
    ],
)
def test_pictures_are_embedded_small_and_enlarged_by_their_kind(size, query, grid, pixels):
    image = Image.new("RGB", size, colour(5))
    page = ParsedPage(report(answer(top=[entry(image=image)]), pictures=[("", image)]))
    (asked, _, shown) = embedded(page)  # between them one of the first page, small
    assert [asked.size, shown.size] == [query, grid]
    assert {picture.getpixel((0, 0)) for picture in embedded(page)} == {colour(5)}
    assert [img.get("class") for img in page.all("img")] == ["pixels" if pixels else None] * 3


def test_embedded_small_pictures_are_exact():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    page = ParsedPage(report(answer(top=[entry(image=Image.fromarray(noise))])))
    np.testing.assert_array_equal(np.asarray(embedded(page)[0]), noise)


def test_several_pictures_have_captions():
    images = [Image.new("RGB", (16, 16), colour(i)) for i in (1, 2)]
    pictures = list(zip(("Aimed at", "Finished"), images, strict=True))
    page = ParsedPage(report(pictures=pictures))
    assert "Aimed at Finished" in page.text
    assert [img["alt"] for img in page.all("img")[:2]] == [
        "Aimed at. Prompt: a red star",
        "Finished. Prompt: a red star",
    ]


def test_provenance_is_flat_and_complete():
    sha = "0123456789abcdef" * 4
    provenance = {
        "model": {"name": "tiny", "fingerprint": f"sha256:{sha}"},
        "recipe": {"steps": [1, 2, 3], "projection": {"seed": 0}},
        "shards": [{"rows": 10}, {"rows": 20}],
        "nothing": None,
    }
    text = report(provenance=provenance)
    rows = re.findall(r'<th scope="row"><code>(.*?)</code></th><td>(.*?)</td>', text)
    assert dict(rows) == {
        "model.name": "tiny",
        "model.fingerprint": f"<code>sha256:{sha}</code>",
        "recipe.steps": "1, 2, 3",
        "recipe.projection.seed": "0",
        "shards.0.rows": "10",
        "shards.1.rows": "20",
        "nothing": "—",
    }


def test_no_entry_of_the_provenance_is_left_out():
    provenance = {"none": {}, "list": [], "deep": [["a", []], "b"], "parts": [{"x": 0}, "whole"]}
    assert dict(flatten(provenance)) == {
        "none": ["—"],
        "list": ["—"],
        "deep": ["a", "—", "b"],
        "parts.0.x": ["0"],
        "parts.1": ["whole"],
    }
    assert "All entries" not in report(provenance={})
