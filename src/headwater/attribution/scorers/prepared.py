"""A question made ready for a method: prompts encoded, pictures drawn, combinations refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor

from headwater.attribution.candidates import _nearest
from headwater.attribution.scorers.captions import difference, naming
from headwater.attribution.scorers.natural_gradient import Options
from headwater.attribution.scorers.unlearning import DRAWS, picture, pictures_of, scores
from headwater.errors import MethodError
from headwater.features.spec import Side
from headwater.index.index import Index
from headwater.methods import CAPTIONS, OWN, Method
from headwater.models.sampling import Picture, seeded_noise
from headwater.queries.concept import Concept, ConceptDrawer, Contexts, contexts
from headwater.queries.image import Image, PictureDrawer, latent_mask
from headwater.queries.local_concept import Local
from headwater.queries.query import Drawer, Guided, Question, Said


@dataclass(frozen=True)
class Prepared:
    """What one method needs to answer one question; one of `drawer`, `row`, `scores` is there.

    Attributes:
        describe: how it is asked, once it is known how many draws were made.
        nearest: rows of the images nearest to the query, for "clip:COUNT" or "pixel:COUNT".
        drawer: makes a row of features for each draw.
        row: the query's only row of features, from an index or one of its checkpoints.
        scores: of a method that has no features, [1, n].
        draws: how many went into these.
        once: why the answer does not come draw by draw; "" where it does.
    """

    describe: Callable[[int], Said]
    nearest: Callable[[str], list[int]]
    drawer: Drawer | None = None
    row: Callable[[Index], Float[Tensor, "1 k"]] | None = None
    scores: Callable[[], Float[Tensor, "1 n"]] | None = None
    draws: int = 1
    once: str = ""


def prepare(index: Index, method: Method, query: Question) -> Prepared:
    """Everything that is not a gradient.

    Raises:
        MethodError: the model reads no prompts, and the question is about words; or the method
            compares no texts, and they are to be exchanged.
        QueryError: a picture, mask or step that cannot be.
    """
    nearest = partial(_nearest, index, query)
    if method.rule == "random":
        said: Said = ("nothing: scores are random", {})
        scores, once = _random(index, query), "the scores are random numbers"
        return Prepared(lambda _: said, nearest, scores=scores, once=once)
    if method.rule == "unlearning":
        return _unlearning(index, method, query)
    if isinstance(query, Concept):
        return _concept(index, method, query)
    if isinstance(query, Image):
        return _picture(index, method, query)
    if isinstance(query, Local):
        query = query.at(index)
    assert isinstance(query, Guided), f"{type(query).__name__} is no question"
    drawer = query.drawer(index.denoiser)
    once = "there is one pair" if drawer.limit == 1 else ""
    return Prepared(partial(_guided, query), nearest, drawer=drawer, once=once)


def _guided(query: Guided, draws: int) -> Said:
    if isinstance(query, Local):
        query = query.of(draws)
    return query.description, query.details()


def _concept(index: Index, method: Method, query: Concept) -> Prepared:
    nearest = partial(_nearest, index, query)
    if method.concept == CAPTIONS:
        return _by_captions(index, method, query, nearest)
    denoiser = index.denoiser
    if not denoiser.conditional:
        raise MethodError(
            f"{denoiser.source} reads no prompts, so it cannot be asked for a concept"
        )
    if method.train is not None and method.train.path == "clip":
        if query.swap:
            raise MethodError(
                f"--swap exchanges the texts c+ and c-, and {method.name} has none: leave it out"
            )
        index.machine()  # refuses another CLIP than that of the rows
        row = index.clip().texts([query.concept]).cpu()
        said: Said = (f"for the words {query.concept!r}", {})
        return Prepared(lambda _: said, nearest, row=lambda _: row, once=_SIMILARITY)
    captions = [sample.caption for sample in index.samples]
    chosen = contexts(query, captions)
    used = dict.fromkeys(chosen.pairs)
    denoiser.warn_of_lost_words([prompt for pair in used for prompt in pair])
    delta = (method.concept or OWN["concept"]).delta
    drawer = ConceptDrawer(query.title, chosen.pairs, query.base, query.seed, delta)
    return Prepared(partial(_in_contexts, query, chosen), nearest, drawer=drawer)


_SIMILARITY = "a similarity draws nothing at random"


def _by_captions(
    index: Index, method: Method, query: Concept, nearest: Callable[[str], list[int]]
) -> Prepared:
    named = naming(index, query, method.name)
    count = int(named.sum())
    those = f"{count:,} image{'s' if count > 1 else ''} whose caption names it"
    said: Said = (f"by {those}, against the rest", {"captions that name it": count})
    return Prepared(
        lambda _: said,
        nearest,
        row=lambda member: difference(member, named),
        once="captions are all asked at once",
    )


def _in_contexts(query: Concept, chosen: Contexts, draws: int) -> Said:
    used = chosen.first(draws)
    return used.description, {
        "base": query.base or "c+",
        "swap": query.swap,
        "context": used.kind,
        "contexts": [list(pair) for pair in dict.fromkeys(used.pairs)],
    }


def _picture(index: Index, method: Method, query: Image) -> Prepared:
    picture = index.picture(query)
    nearest = partial(_nearest, index, query)

    side = _side(index, method, query)

    def describe(draws: int) -> Said:
        return _of_picture(method, query, side), query.details()

    if method.train is not None and not method.train.gradient:
        row = index.machine().image_rows([picture.image], [""], [""]).features.float().cpu()
        return Prepared(describe, nearest, row=lambda _: row, once=_SIMILARITY)
    mask = latent_mask(index.denoiser, query.mask, picture.image) if query.mask else None
    drawer = PictureDrawer(
        query.title,
        side,
        _targets(index, method, query, picture),
        picture.digest(),
        query.prompt,
        query.seed,
        mask,
        index.recipe.inversion_guidance,
    )
    once = "an inversion draws no noise" if drawer.limit == 1 else ""
    return Prepared(describe, nearest, drawer=drawer, once=once)


def _side(index: Index, method: Method, query: Image) -> Side:
    """What is asked of the picture."""
    side = method.asks(query.kind, bool(query.prompt.strip()) and index.denoiser.conditional)
    assert side is not None, f"{method.name} takes no pictures"
    return side


def _of_picture(method: Method, query: Image, side: Side) -> str:
    """A step is of the picture's making only where it is re-noised from what that aimed at."""
    if side.delta == "concept":
        return f"{query.description}, as its prompt makes it"
    if query.step is None or side.path == "renoised":
        return query.description
    finished = replace(query, step=None).description
    return f"{finished}, finished and noised as at step {query.step}"


def _targets(
    index: Index, method: Method, query: Image, picture: Picture
) -> tuple[tuple[Tensor, tuple[int, ...]], ...]:
    """(x0, timesteps) of the probes.

    Of the picture, the index's timesteps, or the one step; of a method that re-noises, what the
    picture's making aimed at, at each of the steps it passed, or at the one.
    """
    timesteps = index.recipe.timesteps
    if method.query is None or method.query.path != "renoised":
        return ((picture.x0, timesteps if query.step is None else (query.step,)),)
    if not picture.x0hats:
        raise MethodError(
            f"{method.name} follows the making of a picture, and a file was made elsewhere: give "
            "--prompt and --seed, or another method, for instance trak on the same index"
        )
    steps = timesteps if query.step is None else (query.step,)
    passed = [min(picture.x0hats, key=lambda t: abs(t - step)) for step in steps]
    return tuple((picture.x0hats[t], (t,)) for t in dict.fromkeys(passed))


def _unlearning(index: Index, method: Method, query: Question) -> Prepared:
    """A picture is unlearned as it is; a concept as pictures that the model makes of its c+."""
    draws = query.draws or DRAWS
    if isinstance(query, Concept):
        ready = _concept(index, method, query)
        assert isinstance(ready.drawer, ConceptDrawer)
        prompts = [plus for plus, _ in ready.drawer.pairs[:draws]]
        asked, details = ready.describe(draws)
        asked = f"by unlearning pictures of c+, {asked}"
        make = partial(pictures_of, index.denoiser, prompts, query.seed)
    else:
        assert isinstance(query, Image)
        shown = index.picture(query)
        asked, details = f"by unlearning {query.title}", query.details()
        given = (index.denoiser, shown.x0, query.prompt, query.seed, draws)
        make = partial(picture, *given)
    said: Said = (asked, {**details, "unlearning": asdict(Options())})
    return Prepared(
        lambda _: said,
        partial(_nearest, index, query),
        scores=lambda: scores(index, make()),
        draws=draws,
        once="all draws are unlearned together",
    )


def _random(index: Index, query: Question) -> Callable[[], Tensor]:
    """Scores that know nothing, others for each question."""
    key = [query.prompt, *query.contents()] if isinstance(query, Image) else []
    return lambda: seeded_noise((1, len(index)), query.seed, "random", query.title, *key)
