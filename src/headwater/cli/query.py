"""`headwater concept`, `image` and `preference`: questions to an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headwater.cli import query_options as own
from headwater.cli.options import (
    GUIDANCE,
    Among,
    Candidates,
    ClipFolder,
    Damping,
    Device,
    EngineName,
    Fresh,
    GroupBy,
    Guidance,
    IndexFolder,
    Jobs,
    Json,
    Layout,
    Method,
    Options,
    Out,
    Seed,
    Top,
    Where,
    asking,
    number_or_auto,
    open_session,
    with_options,
)
from headwater.cli.output import Output, answer, answer_along, answer_journey, default_folder
from headwater.errors import QueryError
from headwater.features.spec import DRAWS
from headwater.methods.choice import choose, usual_ask

if TYPE_CHECKING:
    from headwater.attribution.session import Session
    from headwater.queries.image import Image
    from headwater.queries.query import Question
    from headwater.queries.reward import Scorer

_DRAWS = str(DRAWS)


@with_options
def concept(
    given: Options,
    index: IndexFolder,
    prompt: own.Prompt = None,
    concept: own.Concepts = None,
    ask: own.Ask = None,
    pictures: own.Pictures = None,
    preset: own.Preset = None,
    feature: own.Feature = None,
    reward: own.Reward = None,
    reward_text: own.RewardText = None,
    local: own.Local = None,
    mask: own.LocalMask = None,
    minus: own.Minus = None,
    anchor: own.Anchor = "",
    base: own.Base = None,
    context: own.Context = "auto",
    draws: own.Trajectories = _DRAWS,
    seed: Seed = 0,
    top: Top = 10,
    guidance: Guidance = GUIDANCE,
    method: Method = None,
    damping: Damping = None,
    candidates: Candidates = None,
    where: Where = None,
    among: Among = None,
    group_by: GroupBy = None,
    clip: ClipFolder = None,
    swap: own.Swap = False,
    alternatives: own.Alternatives = None,
    journey: own.Along = False,
    device: Device = None,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    out: Out = None,
    layout: Layout = "headwater",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this concept?

    It is asked for by words of a prompt, by a picture that shows it (--local), by a score of
    pictures (--reward, --reward-text), as the paper does (--preset), or by a feature that was
    computed elsewhere (--feature). Where nothing else is said, an index is asked what its method is
    for; the usual one: which images would the model know it less well without?
    """
    asked = {**given, "draws": number_or_auto("--draws", draws)}
    asked["alternatives"] = own.alternatives_in(alternatives)
    asked["ask"] = own.ask_of(asked)
    options = asking(given)
    own.require_one_question(asked)
    session = open_session(index, device, clip, engine, jobs)
    of_index = session.index.recipe.method, session.index.methods()
    asked["ask"] = asked["ask"] or usual_ask(method, *of_index)
    if (concept and local is None and asked["ask"] == "slider") or preset:
        _refuse_of_similarity(session, asked)
    queries = _concept_queries(session, asked)
    output = Output(out or default_folder(queries, given), top, as_json, layout)
    if journey:
        answer_along(session, queries, output, _making(asked), options)
    else:
        answer(session, queries, output, guidance, options)


def _making(given: Mapping[str, Any]) -> Image:
    """The picture of the prompt, of which each step is asked about.

    Raises:
        QueryError: there is no prompt.
    """
    from headwater.queries.image import Image

    own.refuse({"--layout": given["layout"] != "headwater"}, "--journey")
    if not given["prompt"]:
        raise QueryError("--journey is of the making of a prompt's picture: give a prompt")
    options = {name: given[name] for name in ("draws", "seed", "guidance")}
    return Image(given["prompt"], **options)


def _concept_queries(session: Session, given: Mapping[str, Any]) -> Sequence[Question]:
    """The questions of `headwater concept`."""
    from headwater.queries.concept import Concept, preset
    from headwater.queries.feature import Feature
    from headwater.queries.local.local_concept import Local, whole_picture
    from headwater.queries.outputs.output import question_of
    from headwater.queries.reward import Reward

    prompt, draws, seed, local = (given[name] for name in ("prompt", "draws", "seed", "local"))
    if given["feature"] is not None:
        return [Feature(given["feature"])]
    if given["preset"] is not None:
        return preset(given["preset"], draws, seed)
    options = {
        "of_slider": _of(given, "minus", "base", "swap"),
        "of_output": {"pictures": given["pictures"] or "auto", "guidance": given["guidance"]},
        **_of(given, "anchor", "context", "alternatives", "draws", "seed"),
    }
    words = given["concept"] or ()
    asked = [question_of(given["ask"], prompt, each, **options) for each in words]
    if local is not None:
        whole = whole_picture(prompt, local, mask=given["mask"], draws=draws, seed=seed)
        concepts = [each for each in asked if isinstance(each, Concept)]  # no output goes with it
        return [Local(each, local, given["mask"]) for each in concepts] or [whole]
    if asked:
        return asked
    return [Reward(prompt, _scorer(session, given), draws, seed)]


def _of(given: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """These of the options."""
    return {name: given[name] for name in names}


@with_options
def image(
    given: Options,
    index: IndexFolder,
    file: own.PictureFile = None,
    prompt: own.PicturePrompt = "",
    seed: Seed = 0,
    mask: own.PictureMask = None,
    step: own.Step = None,
    journey: own.Journey = False,
    draws: own.NoiseDraws = _DRAWS,
    judge: own.Judge = None,
    groups: own.Groups = None,
    top: Top = 10,
    guidance: Guidance = GUIDANCE,
    method: Method = None,
    damping: Damping = None,
    candidates: Candidates = None,
    where: Where = None,
    among: Among = None,
    group_by: GroupBy = None,
    clip: ClipFolder = None,
    device: Device = None,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    out: Out = None,
    layout: Layout = "headwater",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this picture?

    Or a part of it (--mask), or a step of its making (--step), or each of the steps (--journey);
    or which groups of them (--groups).
    """
    options = asking(given)
    count = number_or_auto("--draws", draws)
    if file is not None:
        own.refuse({"--guidance": guidance != GUIDANCE}, "a picture that is given")
    if judge is not None and not journey:
        raise QueryError("--judge looks at every step of a picture's making: give --journey too")
    from headwater.queries.image import Image
    from headwater.runtime.plugins import function_named

    looks = None if judge is None else function_named("--judge", judge)[0]
    query = Image(prompt, file, mask, step, count, seed, guidance)
    if groups is not None:
        from headwater.queries.pictures.grouped import GroupedImage

        own.refuse({"--journey": journey}, "--groups")
        query = GroupedImage(**asdict(query), groups=groups)
    session = open_session(index, device, clip, engine, jobs)
    output = Output(out or default_folder([query], given), top, as_json, layout)
    if journey:
        own.refuse({"--group-by": group_by is not None}, "--journey")
        own.refuse({"--layout": layout != "headwater"}, "--journey")
        answer_journey(session, query, output, looks, options)
    else:
        answer(session, [query], output, guidance, options)


@with_options
def preference(
    given: Options,
    index: IndexFolder,
    pairs: own.PairsFolder,
    draws: own.PairDraws = "auto",
    seed: own.PairSeed = 0,
    top: Top = 10,
    method: Method = None,
    damping: Damping = None,
    where: Where = None,
    among: Among = None,
    group_by: GroupBy = None,
    device: Device = None,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    out: Out = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this preference?

    It is what the better pictures of pairs have and the worse lack.
    """
    options = asking(given)
    count = number_or_auto("--draws", draws)
    from headwater.queries.preference import Preference, load_pairs

    query = Preference(load_pairs(pairs), count, seed)
    output = Output(out or default_folder([query], given), top, as_json)
    answer(open_session(index, device, None, engine, jobs), [query], output, GUIDANCE, options)


def _scorer(session: Session, given: Mapping[str, Any]) -> Scorer:
    from headwater.queries.reward import from_module, similarity_to

    if given["reward"] is not None:
        return from_module(given["reward"])
    return similarity_to(given["reward_text"] or "", session.clip())


def _refuse_of_similarity(session: Session, given: Mapping[str, Any]) -> None:
    """Refuse what is of trajectories, where words are compared with pictures and that is all."""
    index = session.index
    method = choose(given["method"], index.recipe.method, index.methods(), "concept")
    if method.scorer == "similarity":
        of_trajectories = {"--preset": given["preset"], "--draws": given["draws"] != DRAWS}
        own.refuse(own.of_words(given) | of_trajectories, method.name)
