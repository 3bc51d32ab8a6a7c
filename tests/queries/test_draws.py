"""A query's rows: the bar while they are computed, and what is said if there is nothing in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import pytest
import torch
from support.exact_gradients import unprojected
from torch import Tensor

from headwater import Concept, Denoiser, Image
from headwater.errors import NonFiniteError
from headwater.features.spec import Side
from headwater.models.sampling import Picture
from headwater.queries.concept import ConceptDrawer
from headwater.queries.contexts import Contexts
from headwater.queries.draws import DrawnRows, RowCache, draw_rows
from headwater.queries.image import PictureDrawer
from headwater.queries.query import Drawer
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.progress import Reached, Stopped, listening

TIMESTEPS = (299, 799)
QUERY = Concept("a red star", "star")
STAR = ConceptDrawer(QUERY, Contexts("prompt", (("a red star", "a red"),) * 3, "here"))
SAME = ConceptDrawer(QUERY, Contexts("prompt", (("a red star", "a red  star"),) * 3, "here"))


@pytest.fixture(scope="module")
def machine(tiny_model):
    return unprojected(Denoiser.load(tiny_model, dtype=torch.float64), TIMESTEPS)


@dataclass(frozen=True)
class Odd:
    """A drawer as another kind of question, and one that memory holds one draw of."""

    inner: ConceptDrawer
    kind: str = "concept"
    most: int = 9
    title: str = "odd"
    limit: int | None = None
    once: str = ""

    def describe(self, draws):
        return self.inner.describe(draws)

    def check(self, denoiser):
        return ["odd it is"]

    def key(self, draws):
        return {**self.inner.key(draws), "type": self.kind}

    def probes(self, machine):
        return self.inner.probes(machine)

    def objectives(self, machine, draws) -> Iterator:
        for objective in self.inner.objectives(machine, draws):
            yield objective
            if len(draws) > self.most:
                raise torch.OutOfMemoryError("after the first probe")


def draw(machine, drawer: Drawer, draws: int, kept: RowCache) -> DrawnRows:
    """In one metric."""
    return draw_rows(lambda _: machine(), drawer, range(draws), {None: kept})[None]


def rows(machine, drawer: Drawer, folder: Path, draws: int = 3) -> Tensor:
    drawn = draw(lambda: machine, drawer, draws, RowCache(folder, "an index"))
    assert not drawn.cached
    return drawn.rows


# --- the bar ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "most, said", [(9, [0, 0, 1, 2, 2, 2, 3]), (1, [0, 0, 1, 0, 0, 1, 1, 1, 2, 2, 2, 3])]
)
def test_the_bar_counts_what_is_kept(machine, tmp_path, monkeypatch, most, said):
    """Not a batch of two that memory did not hold; the trial of a batch size is not counted."""
    monkeypatch.setattr(BatchSize, "LARGEST", 2)
    told: list[Reached] = []
    with listening(told.append):
        made = rows(machine, Odd(STAR, most=most), tmp_path)
    assert {(each.what, each.total, each.unit) for each in told} == {
        ("gradients of odd", 3, "draw")
    }
    assert [each.done for each in told] == said
    monkeypatch.undo()
    torch.testing.assert_close(made, rows(machine, STAR, tmp_path / "again"))


def test_what_is_stopped_goes_on_from_the_draws_that_were_made(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(BatchSize, "LARGEST", 2)
    six = ConceptDrawer(QUERY, Contexts("prompt", (("a red star", "a red"),) * 6, "here"))
    told: list[Reached] = []

    def stop(reached: Reached) -> None:
        if reached.done == 3:  # in the second of three batches
            raise Stopped

    with pytest.raises(Stopped), listening(stop):
        rows(machine, six, tmp_path / "stopped", 6)
    assert len(list((tmp_path / "stopped").iterdir())) == 1  # the first two draws, whole
    with listening(told.append):
        again = rows(machine, six, tmp_path / "stopped", 6)
    assert told[0].total == 4
    torch.testing.assert_close(again, rows(machine, six, tmp_path / "whole", 6))


@pytest.mark.usefixtures("memory_is_tried")
def test_a_batch_size_is_found_by_two_probes_of_one_draw(tiny_model, tmp_path):
    asked = []

    class Counted(Odd):
        def objectives(self, machine, draws):
            for objective in super().objectives(machine, draws):
                asked.append(len(draws))
                yield objective

    machine = unprojected(Denoiser.load(tiny_model), (99, 299, 499, 799))
    rows(machine, Counted(STAR), tmp_path)
    assert asked == [1, 1, 3, 3, 3, 3]


@pytest.mark.usefixtures("memory_is_tried")
def test_what_a_draw_takes_is_tried_once_for_a_kind_of_question(tiny_model, tmp_path):
    tried, needed = [], {}

    class Watched(Odd):
        def objectives(self, machine, draws):
            tried.append(len(draws) == 1)
            return super().objectives(machine, draws)

    machine = unprojected(Denoiser.load(tiny_model), (99, 299))
    for kind, trials in (("concept", 1), ("concept", 0), ("reward", 1), ("reward", 1)):
        tried.clear()
        drawer = Watched(STAR, kind=kind)
        kept = {None: RowCache(tmp_path, "", fresh=True)}
        draw_rows(lambda _: machine, drawer, range(3), kept, needed)
        assert sum(tried) == trials
    assert len(needed) == 1 and min(needed.values()) > 0


# --- nothing in them ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, said",
    [
        ("concept", "c+ and c- may look alike to the model, ask for other words"),
        ("local", "the token may have learned nothing, ask with another picture or mask"),
        ("preference", "winners and losers may look alike to the model, give other pairs"),
        ("reward", "leave out what is flat in pictures from 0 to 1 (thresholds, rounding, clip"),
        ("picture", "the index's layers may have no say in it, build one with other --parameters"),
        ("of a plug-in", "the index's layers may have no say in it"),
    ],
)
def test_no_gradient_is_refused_in_words_of_the_question(machine, tmp_path, kind, said):
    with pytest.raises(NonFiniteError) as caught:
        rows(machine, Odd(SAME, kind), tmp_path)
    assert str(caught.value).startswith(f"'odd' gave an all-zero gradient: {said}")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_gradient_that_is_no_number_is_refused(machine, tmp_path):
    x0 = torch.full((1, *machine.denoiser.latent_shape), float("nan")).double()
    side, picture = Side("noising", "dsm"), Picture(PIL.Image.new("RGB", (16, 16)), x0)
    drawer = PictureDrawer(Image("a star"), side, ((x0, TIMESTEPS),), picture)
    with pytest.raises(NonFiniteError, match="'the picture' gave a NaN or infinite gradient: comp"):
        rows(machine, drawer, tmp_path)


# --- kept ---------------------------------------------------------------------------------------


def test_rows_that_are_kept_need_no_model(machine, tmp_path):
    kept = RowCache(tmp_path, "an index")
    first = draw(lambda: machine, Odd(STAR), 3, kept)

    def load():
        raise AssertionError("the model was loaded")

    again = draw(load, Odd(STAR), 3, kept)
    assert (first.cached, again.cached) == (False, True)
    assert torch.equal(again.rows, first.rows)
    assert again.remarks == first.remarks == ("odd it is",)
    for other in (RowCache(tmp_path, "another"), RowCache(tmp_path, "an index", fresh=True)):
        with pytest.raises(AssertionError, match="the model was loaded"):
            draw(load, Odd(STAR), 3, other)


# --- what is kept -------------------------------------------------------------------------------


def test_more_draws_go_on_from_those_that_were_made(machine, tmp_path):
    """Only what is missing is computed, and the rows are those of all at once."""
    many = ConceptDrawer(QUERY, Contexts("prompt", (("a red star", "a red"),) * 20, "here"))
    asked: list[int] = []

    class Watched(Odd):
        def objectives(self, machine, draws):
            asked.extend(draws)
            return super().objectives(machine, draws)

    kept = RowCache(tmp_path, "an index")
    first = draw(lambda: machine, Watched(many), 4, kept)
    assert set(asked) == set(range(4)) and not first.cached
    asked.clear()
    more = draw(lambda: machine, Watched(many), 20, kept)
    assert set(asked) == set(range(4, 20)) and not more.cached
    assert torch.equal(more.rows[:4], first.rows)
    torch.testing.assert_close(more.rows, rows(machine, many, tmp_path / "at once", 20))
    asked.clear()
    fewer = draw(lambda: machine, Watched(many), 16, kept)
    assert not asked and fewer.cached and torch.equal(fewer.rows, more.rows[:16])
    assert fewer.remarks == ("odd it is",)
