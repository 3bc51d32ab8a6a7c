"""The report says in words and pictures what an answer is."""

import re
from unicodedata import bidirectional

import pytest
from PIL import Image
from support.report import (
    AWKWARD,
    ParsedPage,
    answer,
    bar,
    colour,
    entries,
    entry,
    group,
    report,
    sure,
)

from headwater.methods.evidence import evidence
from headwater.report.html import Asked, html_report, mark
from headwater.report.sheets.contact_sheet import format_score

DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
# Tested against the names that Unicode gives, not against what the report takes out.
HARMFUL = re.compile(
    "[" + "".join(chr(i) for i in [*range(32), *range(127, 160)] if chr(i) not in "\t\n") + "]"
    "|["
    + "".join(c for c in map(chr, range(0x2000, 0x2100)) if bidirectional(c) in DIRECTIONS)
    + "]"
)


IN_SHORT = 6  # of what a first page shows


def safe(text: str) -> str:
    """What a reader is to see of it."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return HARMFUL.sub("\N{REPLACEMENT CHARACTER}", re.sub("[\ud800-\udfff]", "?", lines))


@pytest.mark.parametrize("top", [0, 1, 50])
@pytest.mark.parametrize("bottom", [0, 10])
def test_the_report_parses_and_shows_every_entry(top, bottom):
    low = [entry(i, id=f"low-{i}", score=-1.0 - i) for i in range(bottom)]
    page = ParsedPage(report(answer(top=entries(top), bottom=low)))
    assert len(page.all("img")) == min(top, IN_SHORT) + top + bottom
    assert page.all("html") == [{"lang": "en"}]
    assert ("Opponents (10)" in page.text) == bool(bottom)
    for ranked in [*entries(top), *low]:
        assert (
            f"{ranked.rank} {format_score(ranked.score)}".replace("-", "\N{MINUS SIGN}")
            in page.text
        )
        assert ranked.id in page.text and ranked.uri in page.text
        assert f"Training image {ranked.id}: {ranked.caption}" in {
            i["alt"] for i in page.all("img")
        }


def test_the_question_the_prompt_and_the_comparison_are_in_words():
    both = [answer(), answer(concept="Van Gogh", plus="", minus="", context="no words compared")]
    text = report(*both, prompt="a red Star by van gogh, starlit")
    page = ParsedPage(text)
    assert "Which training images taught the model “ star ” and “ Van Gogh ”?" in page.text
    assert re.findall("<mark>(.*?)</mark>", text) == ["Star", "van gogh"]
    assert "makes of “a star” was compared with what it makes of “a shape”, over 16" in page.text
    assert "no words compared" in page.text
    assert "Training images 500" in page.text


def test_a_report_begins_with_a_page_in_short():
    both = [answer(top=entries(8), certainty=sure(0.7)), answer(top=entries(2), concept="moon")]
    page = ParsedPage(report(*both, method="presence"))
    assert page.text.count("In short") == 1 and page.text.index("In short") < 600
    assert "70% of the top 10 stay when draws are resampled" in page.text
    small = [each for each in page.all("img") if each["alt"].startswith("Training image")]
    assert len(small) == (IN_SHORT + 2) + (8 + 2)  # of each there, and all below
    assert page.text.count(evidence("presence")) == 2  # there, and where its limits are
    assert "Other draws would show" not in page.text  # each answer has its own


def test_one_answer_in_short_says_how_sure_it_is_and_what_it_is_of():
    sum = "0123456789abcdef" * 4
    origin = {"model": {"fingerprint": f"sha256:{sum}"}, "data": {"fingerprint": sum[::-1]}}
    one = answer(
        certainty=sure(0.93), competing=[1, 2], grouped_by="artist", groups=[bar("Hana", 0.41)],
        left_out=group("out", 0.1), left_out_ids=["a.png"],
    )  # fmt: skip
    page = report(one, provenance={**origin, "rows": [sum, sum]})
    brief = ParsedPage(page[: page.index("</section>")] + "</section></main></body></html>").text
    assert "stay when draws are resampled; 2 of 500 images competed" in brief
    assert "3 left out by whoever asked; by artist: Hana 41% ± 10%." in brief
    assert "How sure Other draws would show nearly the same 10." in brief
    assert "It does not say that the model would be another without an image" in brief
    assert "compared with what it makes of “a shape”, over 16 captions. A score is" in brief
    rows = "rows 0123456789abcdef, rows 0123456789abcdef"
    assert f"model 0123456789abcdef , images {sum[::-1][:16]} , rows" in brief, rows
    assert "headwater verify INDEX --report result.json" in brief
    assert "Checksums" not in report(one)  # nothing is known of them


def test_of_many_answers_six_are_in_short():
    many = [answer(concept=f"word {i}", top=entries(1)) for i in range(9)]
    page = report(*many)
    assert page.count('class="found"') == IN_SHORT and "And 3 more below." in page
    assert page.count('class="images"') == 9


@pytest.mark.parametrize(
    ("stability", "meaning"),
    [
        (0.93, "would show nearly the same 10"),
        (0.75, "would show most of these 10 again"),
        (0.3, "take these 10 as examples of many"),
    ],
)
def test_a_sentence_says_how_firm_the_answer_is(stability, meaning):
    text = ParsedPage(report(answer(certainty=sure(stability, -0.25)))).text
    assert "put with 32 random draws" in text and f"stays there {stability:.0%} of" in text
    assert "rank correlation of \N{MINUS SIGN}0.25" in text and meaning in text
    assert "random draws. When" not in ParsedPage(report(answer())).text


def test_every_entry_has_its_error_its_stability_and_its_near_copies():
    first = entry(0, error=0.0213, stays=0.931, k=7, copies=["twin <1>", "twin 2"])
    text = ParsedPage(page := report(answer(top=[first, entry(1)], certainty=sure()))).text
    assert "+0.500 ± 0.021" in text and text.count("±") == 3  # grid, list, how to read
    assert text.count("stays in the top 7 in 93% of resamples") == 1
    assert text.count("+2 near-copies") == 2 and "+2 near-copies : " not in text
    assert "+2 near-copies: twin <1>, twin 2" in text and "<1>" not in page


def test_pictures_are_called_pictures():
    image = Image.new("RGB", (16, 16), colour(1))
    whole = answer(concept="the picture", plus="", minus="", context="Asked.", quoted=False)
    page = ParsedPage(report(whole, prompt="", file="a <photo>.png", pictures=[("", image)]))
    assert "taught the model this picture ? File" in page.text
    assert "File a <photo>.png Method" in page.text and "Prompt" not in page.text
    assert "pushes the model towards the picture." in page.text and "“" not in page.text
    assert page.all("img")[0]["alt"] == "The picture that was asked about"


def test_a_negative_score_at_the_top_is_no_proponent():
    """Of few candidates the best may be an opponent."""
    page = ParsedPage(report(answer(top=[entry(0), entry(1, score=-0.1)]))).text
    assert "Training on those of these images with a positive score pushes" in page
    assert "Training on these images pushes" not in page


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_no_text_from_outside_becomes_markup_or_reaches_the_file_raw(text):
    pictures = [("a", Image.new("L", (16, 16)))]
    plain = ParsedPage(report(pictures=pictures, provenance={"a": {"b": "c"}}))
    awkward = entry(caption=text, id=text, uri=text, copies=[text])
    fields = {"concept": text, "plus": text, "minus": text, "context": text, "remarks": [text]}
    page = report(
        answer(**fields, top=[awkward, entry(1), entry(2)]),
        prompt=text,
        method=text,
        file=text,
        pictures=[(text, pictures[0][1])],
        provenance={text: {text: text}},
    )
    # What a text may bring along: a mark, a checksum, a paragraph of remarks, near-copies, a file.
    own = ("mark", "code", "p", "span", "dt", "dd", "figcaption")
    tags = [tag for tag, _ in ParsedPage(page).elements if tag not in own]
    assert tags == [tag for tag, _ in plain.elements if tag not in own]
    assert "<script" not in page and page.count("</style>") == page.count("</html>") == 1
    assert not HARMFUL.search(page)
    page.encode("utf-8")
    # Attributes and text hold the words themselves, but for what cannot be seen.
    alts = {img["alt"] for img in ParsedPage(page).all("img")}
    assert f"Training image {safe(text)}" + (f": {safe(text)}" if text else "") in alts
    assert " ".join(safe(text).split()) in ParsedPage(page).text


def test_awkward_text_of_entries_adds_no_element():
    """The same count of every tag, whatever captions and ids hold."""
    plain = [entry(i, caption="c", id="i", uri="u", copies=["n"]) for i in range(len(AWKWARD))]
    awkward = [
        entry(i, caption=f"c{t}", id=t, uri=t, copies=[t]) for i, t in enumerate(AWKWARD.values())
    ]
    pages = [ParsedPage(report(answer(top=entries))) for entries in (plain, awkward)]
    tags = [[(tag, set(attributes)) for tag, attributes in page.elements] for page in pages]
    assert tags[0] == tags[1]


def test_a_missing_image_is_named_and_not_embedded():
    page = ParsedPage(report(answer(top=[entry(image=None, id="gone", caption="")])))
    assert page.all("img") == [] and "image not found" in page.text
    assert [d["aria-label"] for d in page.all("div", "picture")] == [
        "Training image gone (image not found)"
    ] * 2  # on the first page, and below


def test_opponents_are_called_so_only_where_a_score_is_negative():
    assert "no image is an opponent" in report(answer(bottom=[entry(score=0.1)]))
    assert "no image is an opponent" not in report(answer(bottom=[entry(score=-0.1)]))


@pytest.mark.parametrize(
    ("prompt", "concepts", "marked"),
    [
        ("a red star, starlit", ["star"], ["star"]),
        ("red van Gogh", ["Van Gogh", "red"], ["red", "van Gogh"]),
        ("dotted star", ["star dotted"], ["dotted", "star"]),
        ("一只黑猫坐着", ["黑猫"], ["黑猫"]),
        ("고양이가 있다", ["고양이"], ["고양이"]),
        ("a (b) c", ["(b)", ""], ["(b)"]),
        ("", ["star"], []),
        ("a star", [], []),
    ],
)
def test_concepts_are_marked_in_the_prompt(prompt, concepts, marked):
    parts = list(mark(prompt, concepts))
    assert "".join(part.text for part in parts) == prompt
    assert [part.text for part in parts if part.marked] == marked


def test_the_list_says_which_end_a_rank_is_of():
    both = ParsedPage(report(answer(bottom=[entry(9, rank=1, score=-1.0)])))
    groups = [th for th in both.all("th") if th.get("scope") == "rowgroup"]
    assert len(groups) == 2 and "Source Proponents 1 " in both.text
    assert "Opponents 1 \N{MINUS SIGN}1.00 row-9" in both.text
    alone = ParsedPage(report(answer()))
    assert not [th for th in alone.all("th") if th.get("scope") == "rowgroup"]


def test_where_nothing_is_ranked_nothing_is_said_of_it():
    text = ParsedPage(report(answer(top=[], bottom=[], scores=[]))).text
    assert "Proponents There are none." in text
    assert "Training on these images" not in text and "List with sources" not in text
    assert "taught the model this?" in ParsedPage(html_report_of_nothing()).text


def html_report_of_nothing() -> str:
    return html_report(asked=Asked(""), method="random", answers=[], provenance={})
