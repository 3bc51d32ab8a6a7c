"""Some images alone, and images by group: which compete, and what groups score together."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.command_line import assert_refused
from support.command_line import headwater as run
from support.tiny import tiny_folder

from headwater import Concept, Denoiser, Session, build_index, load_dataset
from headwater.attribution.answer.groups import NONE, Grouping, group_scores, grouping_of
from headwater.attribution.scores import Scored
from headwater.errors import HeadwaterWarning, QueryError
from headwater.index.columns import values_of
from headwater.index.conditions import condition, rows_of_ids, rows_where

QUERY = Concept("a red star", "star", draws=3, context="prompt")


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model):
    """Twelve images in three folders, with an artist each in their metadata."""
    place = tmp_path_factory.mktemp("groups")
    flat = tiny_folder(place / "flat", 12)
    images = place / "images"
    metadata = [json.loads(line) for line in (flat / "metadata.jsonl").read_text().splitlines()]
    with_artists = []
    for number, entry in enumerate(metadata):
        name = f"{'abc'[number % 3]}/{entry['file_name']}"
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (flat / entry["file_name"]).rename(images / name)
        with_artists.append({**entry, "file_name": name, "artist": f"artist {number // 6}"})
    lines = [json.dumps(entry) for entry in with_artists]
    (images / "metadata.jsonl").write_text("\n".join(lines))
    options = dict(method="trak", timesteps=1, dim=16)
    denoiser, data = Denoiser.load(tiny_model), load_dataset(images)
    return Session(build_index(denoiser, data, place / "index", **options))


# --- what rows have -------------------------------------------------------------------------------


def test_values(session):
    index = session.index
    assert list(values_of(index, "folder")) == [(each,) for each in "aaaabbbbcccc"]
    assert list(values_of(index, "id")) == [(sample.id,) for sample in index.samples]
    assert list(values_of(index, "caption")) == [(sample.caption,) for sample in index.samples]
    artists = {sample.id: int(sample.id[-6:-4]) // 6 for sample in index.samples}
    assert list(values_of(index, "artist")) == [(f"artist {n}",) for n in artists.values()]
    with pytest.raises(QueryError, match=r"have no text 'owner': name a column of their data, or"):
        values_of(index, "owner")


def test_values_of_a_table(tmp_path, tiny_model, tiny_images):
    data = load_dataset(tiny_images).first(4)
    pictures = [{"bytes": (tiny_images / s.id).read_bytes()} for s in data.samples]
    captions = [s.caption for s in data.samples]
    table = {"image": pictures, "text": captions, "licence": ["cc0", "cc0", "by", "by"]}
    pq.write_table(pa.table(table), tmp_path / "data.parquet")
    options = dict(method="trak", timesteps=1, dim=16)
    source = load_dataset(tmp_path / "data.parquet")
    index = build_index(Denoiser.load(tiny_model), source, tmp_path / "index", **options)
    assert list(values_of(index, "licence")) == [("cc0",), ("cc0",), ("by",), ("by",)]
    assert rows_where(index, ["licence is by"]) == [2, 3]


# --- conditions and ids ---------------------------------------------------------------------------


def test_conditions(session):
    index = session.index
    stars = [row for row, s in enumerate(index.samples) if "star" in s.caption]
    others = [row for row in range(12) if row not in stars]
    assert 0 < len(stars) < 12
    assert rows_where(index, ["caption contains STAR"]) == stars
    assert rows_where(index, ["caption not contains 'star'"]) == others
    assert rows_where(index, ["folder is a"]) == [0, 1, 2, 3]
    assert rows_where(index, ["id matches b/*", "artist is artist 1"]) == [6, 7]
    assert rows_where(index, []) == list(range(12))


def test_one_of_several_captions_is_enough(session, monkeypatch):
    from headwater.index import conditions

    values = [("a star", "a sun"), ("a moon",)]
    monkeypatch.setattr(conditions, "values_of", lambda index, field: [*values, *[("",)] * 10])
    assert rows_where(session.index, ["caption contains sun"]) == [0]
    assert rows_where(session.index, ["caption not contains sun"]) == list(range(1, 12))


@pytest.mark.parametrize("text", ["star", "caption star", "contains star", "", "caption has star"])
def test_what_is_no_condition(text):
    with pytest.raises(QueryError, match="must be FIELD"):
        condition(text)


def test_ids(session, tmp_path):
    index = session.index
    ids = [sample.id for sample in index.samples]
    assert rows_of_ids(index, [ids[5], ids[2]]) == [2, 5]
    file = tmp_path / "ids.txt"
    file.write_text(f"\ufeff{ids[5]}\n\n  {ids[2]}  \n", encoding="utf-8")
    assert rows_of_ids(index, file) == [2, 5]
    with pytest.warns(HeadwaterWarning, match=r"2 of 3 ids are of no image of .* as 'nobody'"):
        assert rows_of_ids(index, [ids[0], "nobody", "nothing"]) == [0]
    for none in (["nobody"], []):
        with pytest.raises(QueryError, match=r"ids are of no image of .*: give ids as `scores"):
            rows_of_ids(index, none)
    with pytest.raises(QueryError, match=r"cannot read the ids in .*missing: "):
        rows_of_ids(index, tmp_path / "missing")


def test_only_those_compete(session):
    everyone = session.attribute(QUERY)
    ids = [session.index.samples[row].id for row in (1, 4, 5, 8)]
    some = session.attribute(QUERY, where=["folder not is c"], among=ids)
    assert some.competing.tolist() == [1, 4, 5]
    assert (some.scores == everyone.scores).all()  # the kernel is of all images as before
    assert {entry.row for entry in some.top(3)} == {1, 4, 5}
    assert some.provenance["where"] == ["folder not is c"] and some.provenance["among"] == "4 ids"
    assert everyone.among is None
    with pytest.raises(QueryError, match=r"no image of .* is left by --where and --among"):
        session.attribute(QUERY, where=["folder is d"])


def test_candidates_are_chosen_among_them(session, tiny_images):
    from headwater.queries.image import Image

    query = Image("a red star", tiny_images / "train-00011.png", draws=2)
    near = session.attribute(query, candidates="pixel:2", where=["folder is b"])
    alone = session.attribute(query, candidates="pixel:12")
    assert alone.among is None  # all of them
    assert len(near.competing) == 2 and set(near.competing) <= {4, 5, 6, 7}


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [False, True])
def test_groups_by_hand(session, squared):
    """Sums of what images score; errors as of the sums' own draws, by the delta method."""
    draws = torch.randn(400, 12) + 3
    scored = Scored(draws, squared)
    grouping = grouping_of(session.index, "folder")
    found = {group.name: group for group in group_scores(grouping, scored, np.arange(12))}
    answer = scored.answer()[0].double()
    for name, rows in {"a": range(4), "b": range(4, 8), "c": range(8, 12)}.items():
        own, group = answer[list(rows)], found[name]
        assert group.images == 4 and group.score == pytest.approx(float(own.sum()), rel=1e-6)
        assert group.share == pytest.approx(float(own.sum() / answer.sum()), rel=1e-6)
        assert group.per_image == pytest.approx(float(own.mean()), rel=1e-6)
        best = own.argsort(descending=True).tolist()
        assert list(group.strongest) == [rows[each] for each in best]
        slope = 2 * draws.mean(0)[list(rows)] if squared else torch.ones(4)
        error = (draws[:, list(rows)] * slope).sum(1).std(correction=0) / 400**0.5
        assert group.error == pytest.approx(float(error), rel=0.2)
    assert sum(group.share for group in found.values()) == pytest.approx(1)


def test_the_strongest_of_many_groups_are_those_of_a_full_sort():
    """Of groups of no image to dozens, where an image may be in several and scores are equal."""
    chance = np.random.default_rng(0)
    pairs = sorted({(int(row), int(group)) for row, group in chance.integers(0, 40, (300, 2))})
    pairs += [(row, 40) for row in range(40)]
    scores, competing = chance.integers(0, 5, 40).astype(np.float32), chance.permutation(40)[:30]
    rows, groups = torch.tensor(pairs).T
    grouping = Grouping(tuple(map(str, range(42))), rows, groups)
    found = group_scores(grouping, Scored(torch.from_numpy(scores)[None]), competing)
    own = {g: [row for row, other in pairs if other == g and row in competing] for g in range(42)}
    best = {str(g): sorted(rows, key=lambda row: (-scores[row], row)) for g, rows in own.items()}
    assert {g.name: list(g.strongest) for g in found} == {n: b[:5] for n, b in best.items() if b}


def test_shares_are_of_sums_without_signs(session):
    scored = Scored(torch.tensor([[3.0] * 4 + [-1.0] * 4 + [0.0] * 4]))
    groups = group_scores(grouping_of(session.index, "folder"), scored, np.arange(12))
    assert [(g.name, g.score, g.share) for g in groups] == [
        ("a", 12, 0.75), ("c", 0, 0), ("b", -4, -0.25),
    ]  # fmt: skip
    assert {g.error for g in groups} == {g.share_error for g in groups} == {None}
    some = group_scores(grouping_of(session.index, "folder"), scored, np.array([0, 4, 5]))
    assert [(g.name, g.images, g.score) for g in some] == [("a", 1, 3), ("b", 2, -2)]


def test_kinds_of_groups(session, tmp_path):
    index = session.index
    ids = [sample.id for sample in index.samples]
    by_artist = grouping_of(index, "artist")
    assert sorted(by_artist.names) == ["artist 0", "artist 1"] and len(by_artist.rows) == 12
    given = grouping_of(index, {"first": ids[:2], "both": ids[1:3]})
    pairs = set(zip(given.rows.tolist(), given.groups.tolist(), strict=True))
    assert given.names == ("first", "both", NONE)
    assert pairs == {(0, 0), (1, 0), (1, 1), (2, 1), *((row, 2) for row in range(3, 12))}
    file = tmp_path / "groups.csv"
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([("id", "group"), *((id, "all of them") for id in ids)])
    with pytest.raises(QueryError, match=r"groups\.csv puts every image into 'all of them'"):
        grouping_of(index, file)
    with pytest.raises(QueryError, match=r"1 of 1 ids are of no image of .* 'nobody'"):
        grouping_of(index, {"x": ["nobody"]})
    with pytest.warns(HeadwaterWarning, match=r"1 of 2 ids are of no image of .* 'nobody'"):
        assert grouping_of(index, {"x": [ids[0], "nobody"]}).names == ("x", NONE)
    with pytest.raises(QueryError, match=r"cannot read --group-by .*missing\.csv"):
        grouping_of(index, str(tmp_path / "missing.csv"))


# --- the command line -----------------------------------------------------------------------------


def test_the_command(session, tmp_path):
    asked = ("concept", session.index.path, "a red star", "--concept", "star", "--draws", 3)
    command = (*asked, "--context", "prompt", "--group-by", "artist", "--top", 4)
    shown = run(*command, "--out", tmp_path / "answer", "--where", "folder not is c")
    lines = shown.out.splitlines()[:-1]  # the last is a path, as long as it may be
    assert max(map(len, lines)) <= 80
    said = " ".join(line.strip() for line in lines)
    assert "Only 8 of the 12 images competed, those where folder not is c." in said
    assert "by artist: 2 groups; a score is the sum over images" in lines
    assert [line.split()[-2:] for line in lines[-3:-1]] in (
        [["artist", "0"], ["artist", "1"]],
        [["artist", "1"], ["artist", "0"]],
    )
    report = (tmp_path / "answer/report.html").read_text()
    assert "<h3>By artist</h3>" in report and report.count('<th scope="row" dir="auto">artist') == 2
    answer = json.loads(run(*command, "--json", "--out", tmp_path / "again").out)
    groups = answer["results"][0]["groups"]
    assert {group["name"] for group in groups} == {"artist 0", "artist 1"}
    assert sum(abs(group["share"]) for group in groups) == pytest.approx(1)
    assert answer["provenance"]["grouped by"] == "artist"
    assert all(len(group["strongest"]) == 5 for group in groups)


def test_refusals(session, tmp_path):
    asked = ("concept", session.index.path, "a red star", "--concept", "star", "--draws", 2)
    assert_refused(run(*asked, "--where", "star"), "--where 'star' must be FIELD [not] contains|")
    assert_refused(run(*asked, "--group-by", "owner"), "have no text 'owner'")
    assert_refused(run(*asked, "--among", tmp_path / "no"), "cannot read the ids in")
    journey = ("image", session.index.path, "--prompt", "a red star", "--journey")
    assert_refused(run(*journey, "--group-by", "folder"), "does not go with --journey")


# --- left out -------------------------------------------------------------------------------------


def test_what_is_left_out_ranks_nowhere_and_is_summed(session):
    """Beside conditions too; scores and the question's draws are as they were."""
    whole = session.attribute(QUERY, group_by="folder")
    ids = [session.index.samples[row].id for row in (0, 5)]
    left = session.attribute(QUERY, group_by="folder", left_out=ids)
    np.testing.assert_array_equal(left.scores, whole.scores)
    assert left.competing.tolist() == [row for row in range(12) if row not in (0, 5)]
    assert whole.left_out is None and left.left_out is not None
    assert left.left_out.images == 2
    assert left.left_out.score == pytest.approx(whole.scores[[0, 5]].sum(), rel=1e-5)
    assert sorted(group.images for group in left.groups) == [3, 3, 4]
    assert left.provenance["left out"] == sorted(ids)
    both = session.attribute(QUERY, where=["folder is a"], left_out=ids)
    assert both.competing.tolist() == [1, 2, 3]
    assert both.left_out is not None and both.left_out.images == 2
    with pytest.raises(QueryError, match="'gone' is no image of this index"):
        session.attribute(QUERY, left_out=["gone"])
