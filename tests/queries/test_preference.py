"""Rows of preference pairs against the exact gradient of their loss, and pairs that are none."""

import hashlib
import json
import shutil
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.command_line import FAST, assert_refused, headwater
from support.exact_gradients import gradient, unprojected
from support.settings import setting
from support.tiny import tiny_folder

from headwater import Denoiser, Index, from_images
from headwater.errors import DatasetError, QueryError
from headwater.queries.preference import Pairs, Preference, load_pairs, matched
from headwater.scenes.dataset import pictures

NAMES = ["train-00000", "train-00001", "train-00002"]


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


@pytest.fixture
def folder(tmp_path):
    """Three pairs; winners have captions."""
    root = tmp_path / "pairs"
    tiny_folder(root / "winners", 3)
    tiny_folder(root / "losers", 3, "validation")
    (root / "losers/metadata.jsonl").unlink()
    for i, name in enumerate(NAMES):
        (root / f"losers/validation-{i:05d}.png").rename(root / f"losers/{name}.png")
    return root


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


# --- rows ---------------------------------------------------------------------------------------


def exact_row(denoiser, winner, loser, captions, timesteps, weigh):
    """Mean over the probes of both of weigh(grad ||sg[eps - grad_xt R] - eps||^2 / 2).

    R = -||x0hat+ - x+||^2 - ||x0hat- - x+||^2 + ||x0hat+ - x-||^2 + ||x0hat- - x-||^2, all four
    terms at every timestep; DDIM inversion step by step. `captions` of winner and loser are by t.
    """
    total = 0
    reached = [winner, loser]
    conditions = {
        t: [denoiser.encode_captions([caption(t)]) for caption in captions] for t in (0, *timesteps)
    }
    with torch.no_grad():
        eps = [predict(denoiser, x, 0, c) for x, c in zip(reached, conditions[0], strict=True)]
    for t in timesteps:
        a = denoiser.schedule.alpha_bar[t].double()
        xt = [
            (a.sqrt() * x + (1 - a).sqrt() * e).detach().requires_grad_()
            for x, e in zip(reached, eps, strict=True)
        ]
        eps = [predict(denoiser, x, t, c) for x, c in zip(xt, conditions[t], strict=True)]
        plus, minus = ((x - (1 - a).sqrt() * e) / a.sqrt() for x, e in zip(xt, eps, strict=True))
        reward = (
            -(plus - winner).square().sum()
            - (minus - winner).square().sum()
            + (plus - loser).square().sum()
            + (minus - loser).square().sum()
        )
        slopes = torch.autograd.grad(reward, xt, retain_graph=True)
        for e, slope in zip(eps, slopes, strict=True):
            loss = ((e - slope).detach() - e).square().sum() / 2
            total = total + weigh(gradient(denoiser, loss))
        reached, eps = [plus.detach(), minus.detach()], [e.detach() for e in eps]
    return total / (2 * len(timesteps))


def predict(denoiser, xt, t, condition):
    return denoiser.network(xt, t, **condition.tensors).sample


@pytest.mark.parametrize("normalise", ["none", "probe"])
def test_a_row_is_the_gradient_of_the_preference_loss(denoiser, folder, normalise):
    """Two pairs in one batch, in the order of the draws; the loser takes the winner's caption."""
    timesteps = (199, 599, 999)
    machine = unprojected(denoiser, timesteps, normalise)
    question = Preference(load_pairs(folder))
    drawer = question.drawer(setting(denoiser))
    assert (drawer.limit, drawer.probes(machine)) == (3, 6)
    ours = machine.query_rows(drawer.objectives(machine, [0, 2]))
    assert sorted(question.chosen()) == [0, 1, 2]
    shown = pictures("train"), pictures("validation")
    for row, draw in zip(ours, (0, 2), strict=True):
        pair = question.chosen()[draw]
        winner, loser = (
            denoiser.encode_images([side[pair].draw().resize((16, 16))]) for side in shown
        )
        captions = [lambda t, pair=pair: shown[0][pair].caption] * 2
        weigh = (lambda g: g / g.norm()) if normalise == "probe" else (lambda g: g)
        exact = exact_row(denoiser, winner, loser, captions, timesteps, weigh)
        assert exact.norm() > 0
        assert (row - exact).norm() <= 1e-9 * exact.norm()


def test_of_several_captions_each_step_draws_one(denoiser):
    """By the hash of seed, id and timestep; winner and loser each for themselves."""
    images = [Image.new("RGB", (16, 16), name) for name in ("red", "blue")]
    several = [["a red star", "a star", "a shape"], ["a fish", "a ring"]]
    better, worse = (from_images([images[i]], [several[i]]) for i in (0, 1))
    machine = unprojected(denoiser, (199, 599, 999), "none")
    drawer = Preference(matched("two", better, worse)).drawer(setting(denoiser))
    ours = machine.query_rows(drawer.objectives(machine, [0]))[0]

    def drawn(side, t):
        digest = hashlib.sha256(f"caption|0|row-00000000|{t}|0".encode()).digest()
        return several[side][int.from_bytes(digest[:8], "big") % len(several[side])]

    latents = [denoiser.encode_images([image]) for image in images]
    captions = [partial(drawn, side) for side in (0, 1)]
    exact = exact_row(denoiser, *latents, captions, machine.timesteps, lambda g: g)
    assert (ours - exact).norm() <= 1e-9 * exact.norm()
    assert drawer.key(range(1))["captions"] == [(tuple(several[0]), tuple(several[1]))]


def test_winners_and_losers_exchanged_turn_the_sign(denoiser, folder):
    machine = unprojected(denoiser, (499, 999), "probe")
    pairs = load_pairs(folder)
    turned = Pairs("turned", pairs.losers, pairs.winners, pairs.rows)

    def row(pairs):
        drawer = Preference(pairs).drawer(setting(denoiser))
        return machine.query_rows(drawer.objectives(machine, range(3)))

    ours = row(pairs)
    assert ours.norm() > 0
    torch.testing.assert_close(row(turned), -ours)


# --- pairs --------------------------------------------------------------------------------------


def test_a_folder_is_matched_by_name(folder):
    (folder / "losers/train-00001.png").rename(folder / "losers/train-00001.webp")
    (folder / "losers/train-00002.txt").write_text("a loser")
    pairs = load_pairs(folder)
    assert (len(pairs), pairs.rows) == (3, ((0, 0), (1, 1), (2, 2)))
    own = [picture.caption for picture in pictures("train")[:3]]
    assert [pairs.captions(i) for i in range(3)] == [
        ((own[0],), (own[0],)), ((own[1],), (own[1],)), ((own[2],), ("a loser",))
    ]  # fmt: skip
    winner, loser = pairs.images(1)
    assert winner.tobytes() == pictures("train")[1].draw().resize((16, 16)).tobytes()
    assert loser.tobytes() == pictures("validation")[1].draw().resize((16, 16)).tobytes()


def test_names_in_another_order(folder):
    """Captions of losers alone serve winners too."""
    one, two, three = (p.draw() for p in pictures("train")[:3])
    winners = from_images([one, two], ["", ""], ["x.png", "y.png"])
    losers = from_images([three, two], ["a", "b"], ["y.jpg", "x.jpg"])
    pairs = matched("memory", winners, losers)
    assert pairs.rows == ((0, 1), (1, 0))
    assert [pairs.captions(i) for i in range(2)] == [(("b",), ("b",)), (("a",), ("a",))]


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_a_parquet_file(folder, tmp_path, kind):
    def cells(side):
        files = [folder / side / f"{name}.png" for name in NAMES]
        if kind == "bytes":
            return [file.read_bytes() for file in files]
        if kind == "struct":
            return [{"bytes": file.read_bytes(), "path": None} for file in files]
        none = pa.array([None] * 3, pa.binary())
        paths = pa.array([file.relative_to(tmp_path).as_posix() for file in files])
        return pa.StructArray.from_arrays([none, paths], ["bytes", "path"])

    file = tmp_path / "pairs.parquet"
    parquet(file, winner=cells("winners"), loser=cells("losers"), caption=["a", "b", "c"])
    pairs, wanted = load_pairs(file), load_pairs(folder)
    assert [pairs.captions(i) for i in range(3)] == [((name,), (name,)) for name in "abc"]
    for i in range(3):
        ours, theirs = pairs.images(i), wanted.images(i)
        assert [each.tobytes() for each in ours] == [each.tobytes() for each in theirs]


def test_draws_beyond_the_pairs_are_cut(denoiser, folder):
    pairs = load_pairs(folder)
    assert Preference(pairs, 99).drawer(setting(denoiser)).limit == 3
    few, many = Preference(pairs, 2), Preference(pairs)
    assert few.drawer(setting(denoiser)).limit == 2 and many.chosen()[:2] == few.chosen()
    assert len({tuple(Preference(pairs, seed=seed).chosen()) for seed in range(20)}) > 1
    with pytest.raises(QueryError, match="--draws 0 must be at least 1"):
        Preference(pairs, 0)


def test_rows_are_kept_by_content(denoiser, folder):
    """Another picture or caption is another question; another place is not."""

    def key(root):
        return json.dumps(Preference(load_pairs(root)).drawer(setting(denoiser)).key(range(3)))

    first, moved = key(folder), shutil.copytree(folder, folder.parent / "moved")
    assert key(moved) == first
    (moved / "losers/train-00000.txt").write_text("a fish")
    captioned = key(moved)
    shutil.copy(moved / "losers/train-00001.png", moved / "losers/train-00000.png")
    assert len({first, captioned, key(moved)}) == 3


def test_folders_that_hold_no_pairs(folder, tmp_path):
    no_pairs = "there are no pairs at .*: give a folder with winners/ and losers/, or a parquet"
    for path in (tmp_path / "none", folder / "winners"):
        with pytest.raises(QueryError, match=no_pairs):
            load_pairs(path)
    shutil.copy(folder / "losers/train-00000.png", folder / "losers/more.png")
    with pytest.raises(QueryError, match=r"'more' has no winner of the same name \(1 such, of 4\)"):
        load_pairs(folder)
    for name in ("more", *NAMES[1:]):
        (folder / f"losers/{name}.png").unlink()
    with pytest.raises(QueryError, match=r"'train-00001' has no loser of the same name \(2 such"):
        load_pairs(folder)
    (folder / "losers/train-00000.png").unlink()
    with pytest.raises(DatasetError, match=r"losers holds no \.png"):
        load_pairs(folder)
    shutil.copy(folder / "winners/train-00000.png", folder / "winners/train-00000.jpg")
    shutil.copy(folder / "winners/train-00000.png", folder / "losers/train-00000.jpg")
    with pytest.raises(QueryError, match="two pictures named 'train-00000' on one side"):
        load_pairs(folder)


def test_files_that_hold_no_pairs(folder, tmp_path):
    image = (folder / "winners/train-00000.png").read_bytes()
    with pytest.raises(DatasetError, match="no column 'loser' of images"):
        load_pairs(parquet(tmp_path / "a.parquet", winner=[image], image=[image]))
    with pytest.raises(DatasetError, match="holds no images"):
        none = pa.array([], pa.binary())
        load_pairs(parquet(tmp_path / "b.parquet", winner=none, loser=none))
    (tmp_path / "c.parquet").write_text("text")
    with pytest.raises(DatasetError, match="as parquet"):
        load_pairs(tmp_path / "c.parquet")
    broken = load_pairs(parquet(tmp_path / "d.parquet", winner=[image], loser=[b"nothing"]))
    with pytest.raises(QueryError, match=r"d.parquet#row=0\): it is no image; mend it, or take"):
        broken.images(0)


def test_pictures_that_say_nothing(denoiser, folder):
    shutil.copy(folder / "winners/train-00002.png", folder / "losers/train-00002.png")
    with pytest.raises(QueryError, match=r"loser of 'train-00002.png' are the same picture"):
        Preference(load_pairs(folder)).drawer(setting(denoiser))
    (folder / "losers/train-00002.png").write_bytes(b"nothing")
    with pytest.raises(QueryError, match=r"'train-00002.png' \(losers/train-00002.png\): it is no"):
        Preference(load_pairs(folder)).drawer(setting(denoiser))


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model, tiny_images):
    folder = tmp_path_factory.mktemp("preferences") / "index"
    assert headwater("index", tiny_model, tiny_images, folder, *FAST, "--limit", 8).code == 0
    return folder


def test_a_preference_has_no_candidates(index, folder):
    """Nothing that it is about is like one picture, or one text."""
    query = Preference(load_pairs(folder), 1)
    for candidates in ("clip:3", "pixel:3"):
        with pytest.raises(QueryError, match=r"--candidates .* a preference is between many pictu"):
            Index.open(index).attribute(query, candidates=candidates)


def test_a_preference_is_answered(index, folder, tmp_path):
    ask = ("preference", index, folder, "--out", tmp_path / "out")
    result = headwater(*ask, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    (found,) = answer["results"]
    assert (found["question"], found["title"]) == ("preference", "preference in pairs")
    assert found["query"]["draws"] == 3 and found["query"]["pairs"] == str(folder)
    assert answer["provenance"]["picture"] == {"file": "winners/train-00000.png"}
    scores = [entry["score"] for entry in found["top"]]
    assert len(scores) == 8 and scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    for name in ("query.png", "report.html", "preference-in-pairs/scores.parquet"):
        assert (tmp_path / "out" / name).is_file()
    again = headwater(*ask, "--draws", 99)
    assert again.code == 0 and "using the query gradient computed before" in again.err
    assert again.out.splitlines()[1:3] == [
        "the preference in pairs",
        "concept-trak-unguided, asked what the winners of 3 pair(s) have over the losers",
    ]


def test_answers_go_to_a_folder_named_after_the_pairs(index, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert headwater("preference", index, folder, "--draws", 1, "--seed", 2).code == 0
    (report,) = tmp_path.glob("headwater-answers/preference-in-pairs-2-*/report.html")
    assert report.is_file()


def test_refused(index, folder, tmp_path, tiny_model, tiny_images):
    out = ("--out", tmp_path / "out")
    assert_refused(headwater("preference", index, tmp_path, *out), "there are no pairs at")
    for options, said in (
        (("--draws", 0), "--draws 0 must be at least 1"),
        (("--method", "trak"), "trak cannot be asked for pairs of better and worse images: these"),
    ):
        assert_refused(headwater("preference", index, folder, *options, *out), said)
    other = tmp_path / "d-trak"
    built = headwater("index", tiny_model, tiny_images, other, *FAST, "--method", "d-trak")
    assert built.code == 0
    said = "an index built for d-trak cannot be asked for pairs of better and worse images: build"
    assert_refused(headwater("preference", other, folder, *out), said)
    assert not (tmp_path / "out").exists()
