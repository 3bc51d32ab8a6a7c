"""`headwater concept`, `image` and `preference`: questions to an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headwater.cli import query_options as own
from headwater.cli.options import (
    GUIDANCE,
    Candidates,
    ClipFolder,
    Damping,
    Device,
    Fresh,
    Guidance,
    IndexFolder,
    Json,
    Layout,
    Method,
    Options,
    Out,
    Seed,
    Top,
    asking,
    number_or_auto,
    open_session,
    with_options,
)
from headwater.cli.output import Output, answer, answer_journey, default_folder
from headwater.errors import QueryError
from headwater.features.spec import DRAWS
from headwater.queries.words.content import content_words

if TYPE_CHECKING:
    from headwater.attribution.session import Session
    from headwater.queries.query import Question
    from headwater.queries.reward import Scorer

_DRAWS = str(DRAWS)
OUTPUT_NAMES = ("contribution", "loss")


@with_options
def concept(
    given: Options,
    index: IndexFolder,
    prompt: own.Prompt = None,
    concept: own.Concepts = None,
    ask: own.Ask = "slider",
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
    clip: ClipFolder = None,
    swap: own.Swap = False,
    alternatives: own.Alternatives = None,
    device: Device = None,
    out: Out = None,
    layout: Layout = "headwater",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this concept?

    It is asked for by words of a prompt, by a picture that shows it (--local), by a score of
    pictures (--reward, --reward-text), as the paper does (--preset), or by a feature that was
    computed elsewhere (--feature). Which images the model would not know it without is asked by
    --ask contribution, of an index that was built for `ekfac`.
    """
    asked = {**given, "draws": number_or_auto("--draws", draws)}
    asked["alternatives"] = own.alternatives_in(alternatives)
    options = asking(method, damping, candidates, fresh)
    _require_one_question(asked)
    session = open_session(index, device, clip)
    if (concept and local is None) or preset:
        _refuse_of_similarity(session, asked)
    queries = _concept_queries(session, asked)
    folder = out or default_folder(queries, given)
    answer(session, queries, Output(folder, top, as_json, layout), guidance, options)


def _require_one_question(given: Mapping[str, Any]) -> None:
    """Refuse options of `concept` that ask several things, or that would be ignored.

    Raises:
        QueryError: names them.
    """
    words, local, reward = given["concept"], given["local"], given["reward"]
    ways = {"--concept": words, "--reward": reward, "--reward-text": given["reward_text"]}
    ways |= {"--preset": given["preset"], "--feature": given["feature"]}
    way = _only_one(ways if words and local else ways | {"--local": local}, given["prompt"])
    if way in ("--preset", "--feature"):
        _refuse({"PROMPT": given["prompt"] is not None}, way)
    elif given["prompt"] is None:
        raise QueryError(f"{way} goes with a prompt: give PROMPT")
    if way == "--feature":
        made = {"--draws": given["draws"] != DRAWS, "--seed": given["seed"] != 0}
        _refuse(made | {"--guidance": given["guidance"] != GUIDANCE}, way)
    if given["mask"] is not None and local is None:
        raise QueryError("--mask is a part of the picture of --local: give that too")
    if given["minus"] is not None and len(words or ()) > 1:
        raise QueryError(
            "--minus is the prompt without one concept: ask for one --concept at a time"
        )
    _require_output(given, way)
    if not words:
        _refuse(_of_words(given) | {"--candidates": reward and given["candidates"]}, way)
    if local is not None:
        drawn = {"--guidance": given["guidance"] != GUIDANCE}
        words_alone = {"--alternatives": given["alternatives"] is not None}
        _refuse(drawn | words_alone, "--local, which is a picture")


def _require_output(given: Mapping[str, Any], way: str) -> None:
    """Refuse what does not go with questions about outputs, or with others.

    Raises:
        QueryError: names it, or there is no such output.
    """
    ask = given["ask"]
    if ask not in OUTPUT_NAMES and ask != "slider":
        raise QueryError(f"--ask {ask!r} is not one of slider, {', '.join(OUTPUT_NAMES)}")
    if ask == "slider":
        _refuse({"--pictures": given["pictures"] is not None}, "--ask slider")
        return
    asked = f"--ask {ask}"
    if way != "--concept":
        raise QueryError(f"{asked} is of words of a prompt: give --concept")
    names = ("minus", "base", "swap")
    _refuse({f"--{name}": given[name] not in (None, False) for name in names}, asked)
    if given["pictures"] is not None:
        of_made = {
            "--context": given["context"] != "auto",
            "--guidance": given["guidance"] != GUIDANCE,
        }
        _refuse(of_made, "--pictures")
    _refuse({"--local": given["local"] is not None}, asked)


def _concept_queries(session: Session, given: Mapping[str, Any]) -> Sequence[Question]:
    """The questions of `headwater concept`."""
    from headwater.queries.concept import Concept, preset
    from headwater.queries.feature import Feature
    from headwater.queries.local.local_concept import Local, whole_picture
    from headwater.queries.outputs.output import OUTPUTS
    from headwater.queries.reward import Reward

    prompt, draws, seed, local = (given[name] for name in ("prompt", "draws", "seed", "local"))
    if given["feature"] is not None:
        return [Feature(given["feature"])]
    if given["preset"] is not None:
        return preset(given["preset"], draws, seed)
    names = ("minus", "anchor", "base", "context", "swap", "alternatives")
    same = {name: given[name] for name in names} | {"draws": draws, "seed": seed}
    if given["ask"] in OUTPUT_NAMES:
        own = {name: given[name] for name in ("anchor", "pictures", "context", "guidance")}
        made = OUTPUTS[given["ask"]]
        return [made(prompt, words, draws=draws, seed=seed, **own) for words in given["concept"]]
    concepts = [Concept(prompt, words, **same) for words in given["concept"] or ()]
    if local is not None:
        whole = whole_picture(prompt, local, mask=given["mask"], draws=draws, seed=seed)
        return [Local(each, local, given["mask"]) for each in concepts] or [whole]
    if concepts:
        return concepts
    return [Reward(prompt, _scorer(session, given), draws, seed)]


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
    clip: ClipFolder = None,
    device: Device = None,
    out: Out = None,
    layout: Layout = "headwater",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this picture?

    Or a part of it (--mask), or a step of its making (--step), or each of the steps (--journey);
    or which groups of them (--groups).
    """
    options = asking(method, damping, candidates, fresh)
    count = number_or_auto("--draws", draws)
    if file is not None:
        _refuse({"--guidance": guidance != GUIDANCE}, "a picture that is given")
    if judge is not None and not journey:
        raise QueryError("--judge looks at every step of a picture's making: give --journey too")
    from headwater.queries.image import Image
    from headwater.runtime.plugins import function_named

    looks = None if judge is None else function_named("--judge", judge)[0]
    query = Image(prompt, file, mask, step, count, seed, guidance)
    if groups is not None:
        from headwater.queries.pictures.grouped import GroupedImage

        _refuse({"--journey": journey}, "--groups")
        query = GroupedImage(**asdict(query), groups=groups)
    session = open_session(index, device, clip)
    output = Output(out or default_folder([query], given), top, as_json, layout)
    if journey:
        _refuse({"--layout": layout != "headwater"}, "--journey")
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
    device: Device = None,
    out: Out = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Which training images taught the model this preference?

    It is what the better pictures of pairs have and the worse lack.
    """
    options = asking(method, damping, None, fresh)
    count = number_or_auto("--draws", draws)
    from headwater.queries.preference import Preference, load_pairs

    query = Preference(load_pairs(pairs), count, seed)
    output = Output(out or default_folder([query], given), top, as_json)
    answer(open_session(index, device), [query], output, GUIDANCE, options)


def _scorer(session: Session, given: Mapping[str, Any]) -> Scorer:
    from headwater.queries.reward import from_module, similarity_to

    if given["reward"] is not None:
        return from_module(given["reward"])
    return similarity_to(given["reward_text"] or "", session.clip())


def _only_one(options: Mapping[str, Any], prompt: str | None) -> str:
    """The one option of these that is given; a refusal says what the prompt names."""
    given = [name for name, value in options.items() if value]
    if not given:
        named = ", ".join(map(repr, content_words(prompt or "")))
        hint = f"; the prompt names {named}" if named else ""
        raise QueryError(f"nothing is asked for: give {' or '.join(options)}{hint}")
    if len(given) > 1:
        raise QueryError(f"{' and '.join(given)} are different questions: give one of them")
    return given[0]


def _of_words(given: Mapping[str, Any]) -> dict[str, bool]:
    """Options of how prompts are compared, and whether each is given."""
    return {
        "--minus": given["minus"] is not None,
        "--anchor": bool(given["anchor"]),
        "--base": given["base"] is not None,
        "--swap": given["swap"],
        "--context": given["context"] != "auto",
        "--alternatives": given["alternatives"] is not None,
    }


def _refuse_of_similarity(session: Session, given: Mapping[str, Any]) -> None:
    """Refuse what is of trajectories, where words are compared with pictures and that is all."""
    from headwater.methods.choice import choose

    index = session.index
    method = choose(given["method"], index.recipe.method, index.methods(), "concept")
    if method.scorer == "similarity":
        of_trajectories = {"--preset": given["preset"], "--draws": given["draws"] != DRAWS}
        _refuse(_of_words(given) | of_trajectories, method.name)


def _refuse(options: Mapping[str, Any], by: str) -> None:
    """Refuse what would be ignored."""
    for name, value in options.items():
        if value:
            raise QueryError(f"{name} does not go with {by}: leave it out")
