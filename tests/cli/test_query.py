"""Methods, pictures and their options on the command line."""

import json
import shlex
from itertools import takewhile
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from support.command_line import PROMPT, assert_refused, files, headwater
from support.tiny import tiny_folder, tiny_pipeline, tiny_unconditional
from support.tiny_clip import tiny_clip

from headwater import Contribution
from headwater.attribution.scorers.unlearned import guda
from headwater.cli import query
from headwater.methods.table import METHODS

SMALL = ["--timesteps", 1, "--dim", 32, "--parameters", "attn2-kv"]


def made(folder: Path, model: Path, images: Path, method: str, *more: object) -> Path:
    result = headwater("index", model, images, folder, "--method", method, *more)
    assert result.code == 0, result.err
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_model) -> dict[str, Path]:
    """What stands for {trak}, {grey}, ... in commands."""
    tmp = tmp_path_factory.mktemp("cli-methods")
    images = tiny_folder(tmp / "images", 12)
    file = images / "train-00011.png"
    for name, size, value in (("white", 16, 255), ("black", 16, 0), ("small", 8, 255)):
        PIL.Image.fromarray(np.full((size, size), value, np.uint8)).save(tmp / f"{name}.png")
    (tmp / "text.png").write_text("no picture")
    ddpm = tiny_unconditional(tmp / "ddpm")
    clip, other = tiny_clip(tmp / "openai"), tiny_pipeline(tmp / "other", seed=1)
    return {
        "tmp": tmp,
        "file": file,
        "trak": made(tmp / "trak", tiny_model, images, "trak", *SMALL),
        "concept": made(tmp / "concept", tiny_model, images, "concept-trak", *SMALL),
        "pixel": made(tmp / "pixel", tiny_model, images, "pixel-cosine"),
        "clip": made(tmp / "clip", tiny_model, images, "clip-dot", "--clip", clip),
        "two": made(tmp / "two", tiny_model, images, "trak", *SMALL, "--checkpoint", other),
        "openai": clip,
        "other": other,
        "free": made(tmp / "free", ddpm, images, "trak", *SMALL[:4], "--parameters", "mid_block"),
        "model": tiny_model,
        "images": images,
        "out": tmp / "out",
    }


# --- refused ------------------------------------------------------------------------------------

FILE = "image {trak} {file} --out {out} "
DRAWN = "image {trak} --prompt 'a star' --out {out} "
STAR = f"concept {{concept}} '{PROMPT}' --concept star --out {{out}} "
PRESET = "concept {concept} --out {out} --preset "
WORDS = STAR.replace("{concept}", "{clip}")
INDEX = "index {model} {images} {out} "
OF_GRADIENTS = "is of how gradients are made, and pixel-dot makes none: leave it out"

REFUSED = {
    "no picture": ("image {trak} --out {out}", "give a picture: a file, or --prompt and --seed"),
    "no file": ("image {trak} {tmp}/none.png --out {out}", "cannot read the picture '{tmp}/none"),
    "unreadable": ("image {trak} {tmp}/text.png --out {out}", "text.png': it is no image"),
    "mask size": (
        FILE + "--mask {tmp}/small.png",
        "--mask '{tmp}/small.png' is 8x8, the picture is 16x16: paint it over the picture itself",
    ),
    "black mask": (
        FILE + "--mask {tmp}/black.png",
        "is black all over: paint what counts in white",
    ),
    "unreadable mask": (FILE + "--mask {tmp}/text.png", "text.png': it is no image"),
    "no mask": (FILE + "--mask {tmp}/none.png", "none.png': [Errno 2] No such file"),
    "step": (
        DRAWN + "--step 500",
        "--step 500 is not a step of the trajectory, which goes from 999 to 19 in 50: the nearest "
        "is 499",
    ),
    "step of a file": (FILE + "--step 499", "--step is of the making of a picture, and a file was"),
    "journey of a file": (
        FILE + "--method journey-trak",
        "journey-trak follows the making of a picture, and a file was made elsewhere: give "
        "--prompt and --seed, or another method, for instance trak",
    ),
    "patch of pixels": (
        "image {pixel} {file} --mask {tmp}/white.png --out {out}",
        "cannot be asked for a part of an image (--mask): build one for concept-trak",
    ),
    "patch by name": (
        FILE + "--mask {tmp}/white.png --method clip-dot",
        "clip-dot cannot be asked for a part of an image (--mask): these take it: concept-trak",
    ),
    "step of an inversion": (
        "image {concept} --prompt 'a star' --step 499 --out {out}",
        "cannot be asked for one step of an image's making (--step): build one for trak",
    ),
    "concept of trak": (
        STAR + "--method trak",
        "trak cannot be asked for a concept inside a prompt: these take it: concept-trak",
    ),
    "concept of pixels": (
        f"concept {{pixel}} '{PROMPT}' --concept star --out {{out}}",
        "built for pixel-cosine cannot be asked for a concept inside a prompt: build one for con",
    ),
    "not served": (
        FILE + "--method d-trak",
        "this index was built for trak and serves concept-trak-a, trak, journey-trak,",
    ),
    "mend": (FILE + "--method d-trak", "build one with `--method d-trak`"),
    "one checkpoint": (FILE + "--method gas", "build one with `--method gas` with --checkpoint"),
    "built for one": (
        "index {model} {images} {out} --method tracin",
        "tracin is a mean over checkpoints: give at least 1 more with --checkpoint",
    ),
    "no such method": (FILE + "--method tark", "there is no method 'tark'; there are: concept-tr"),
    "clip": (
        "index {model} {images} {out} --method clip-dot",
        "clip-dot needs a CLIP model: give its folder as --clip",
    ),
    "no clip": (FILE + "--clip {tmp}/none", "cannot load the CLIP model '{tmp}/none': give a fold"),
    "not a clip": (FILE + "--clip {model}", "cannot load the CLIP model '{model}'"),
    "random": (
        "index {model} {images} {out} --method random",
        "random needs no index of its own: ask any index with it",
    ),
    "draws of an inversion": (
        "index {model} {images} {out} --method concept-trak-unguided --draws 2",
        "--draws 2: concept-trak-unguided draws no noise, leave it out",
    ),
    "no draws": (
        "index {model} {images} {out} --method trak --draws 0",
        "--draws 0: must be at le",
    ),
    "draws": (FILE + "--draws many", "--draws 'many' must be a number, or `auto`"),
    "damping": (FILE + "--damping x", "--damping 'x' must be a number, or several with commas"),
    "dampings": (FILE + "--damping 0.1,-2", "--damping -2.0 must be a number from 0 up"),
    "damping comma": (FILE + "--damping 0.1,", "--damping '0.1,' must be a number, or several"),
    "candidates": (FILE + "--candidates 5", "--candidates '5' is none of clip:COUNT, pixel:COU"),
    "no candidates": (FILE + "--candidates pixel:0", "--candidates 'pixel:0' is none of clip:COU"),
    "candidates by clip": (FILE + "--candidates clip:3", "give its folder as --clip"),
    "candidates of words": (STAR + "--candidates pixel:3", "needs a picture: give clip:COUNT"),
    "candidates of pairs": (
        "preference {trak} {tmp} --candidates clip:3",
        "no such option: --candidates",
    ),
    "top": (FILE + "--top 0", "--top 0 must be at least 1"),
    "guidance of a file": (
        FILE + "--guidance 7",
        "--guidance does not go with a picture that is given: leave it out",
    ),
    "guidance of a local": (
        STAR + "--local {file} --guidance 7",
        "--guidance does not go with --",
    ),
    **{
        f"{option} of words": (
            f"{WORDS} {option} {value}",
            f"{option} does not go with clip-dot: leave it out",
        )
        for option, value in {
            "--swap": "",
            "--minus": "'a red'",
            "--base": "'a shape'",
            "--context": "prompt",
            "--draws": "8",
        }.items()
    },
    **{
        f"{option} of pixels": (INDEX + f"--method pixel-dot {option} {value}", OF_GRADIENTS)
        for option, value in {
            "--draws": "2",
            "--inversion-guidance": "3",
            "--parameters": "all",
            "--dim": "64",
            "--timesteps": "5",
            "--projection": "mask",
            "--checkpoint": "{other}",
            "--compile": "",
            "--encodings": "{tmp}/kept",
        }.items()
    },
    "dim of clip": (
        INDEX + "--method clip-dot --clip {openai} --dim 64",
        "--dim is of how gradients are made, and clip-dot makes none: leave it out",
    ),
    "unlearning of several": (
        FILE.replace("{trak}", "{two}") + "--method unlearning",
        "unlearning is of one model, and this index is of several: ask an index built without --ch",
    ),
    "device of clip": (
        FILE + "--clip {openai} --device foo",
        "cannot compute on --device 'foo': ",
    ),
    "layout": (STAR + "--layout x", "--layout 'x' is none of headwater, concept-trak"),
    "layout of a journey": (
        DRAWN + "--journey --layout concept-trak",
        "--layout does not go with --journey: leave it out",
    ),
    "no such preset": (PRESET + "marios", "there is no --preset 'marios': 'mario' is near"),
    "no preset near": (
        PRESET + "x",
        "there is no --preset 'x': there are mario, mickey-mouse, s",
    ),
    "a preset and a prompt": (
        f"concept {{concept}} '{PROMPT}' --preset mario --out {{out}}",
        "PROMPT does not go with --preset: leave it out",
    ),
    "a preset and a concept": (
        PRESET + "mario --concept Mario",
        "--concept and --preset are different questions: give one of them",
    ),
    **{
        f"a preset and {option}": (
            f"{PRESET} mario {option} {value}",
            f"{option} does not go with --preset: leave it out",
        )
        for option, value in {"--minus": "x", "--base": "x", "--context": "bare"}.items()
    },
    "a preset both ways": (PRESET + "hug --swap", "--swap does not go with --preset: leave it"),
    "a preset of words": (
        PRESET.replace("{concept}", "{clip}") + "mario",
        "--preset does not go with clip-dot: leave it out",
    ),
    "nothing of a prompt": (
        "concept {concept} 'Pikachu in the style of Pablo Picasso' --out {out}",
        "or --local; the prompt names 'Pikachu', 'Pablo Picasso'",
    ),
    "a concept of nothing": (
        "concept {concept} --concept star --out {out}",
        "--concept goes with a prompt: give PROMPT",
    ),
    "no such output": (
        STAR + "--ask rate",
        "--ask 'rate' is not one of slider, contribution, loss",
    ),
    "pictures of a slider": (
        STAR + "--ask slider --pictures {images}",
        "--pictures does not go with --ask slider: leave it out",
    ),
    "pictures of a score": (
        f"concept {{concept}} '{PROMPT}' --reward a:b --pictures {{images}} --out {{out}}",
        "--pictures does not go with --reward: leave it out",
    ),
    "an output of a score": (
        f"concept {{concept}} '{PROMPT}' --reward a:b --ask loss --out {{out}}",
        "--ask loss is of words of a prompt: give --concept",
    ),
    "an output without": (STAR + "--ask loss --swap", "--swap does not go with --ask loss: leave"),
    "an output of one picture": (
        STAR + "--ask loss --local {file}",
        "--local does not go with --ask loss: leave it out",
    ),
    "contexts of given pictures": (
        STAR + "--ask contribution --pictures {images} --context bare",
        "--context does not go with --pictures: leave it out",
    ),
    "guidance of training images": (
        STAR + "--ask contribution --pictures training --guidance 2",
        "--guidance does not go with --pictures: leave it out",
    ),
    "no pictures": (
        STAR + "--ask contribution --pictures {tmp}/none",
        "--pictures '{tmp}/none' cannot be read (there is no file or folder '{tmp}/none'): give "
        "training, made, a folder",
    ),
    "groups of a part": (
        FILE + "--groups star --mask {tmp}/white.png",
        "--groups are of a whole picture: leave out --mask and --step",
    ),
    "layout of answers and a journey": (
        "concept {trak} 'a star' --concept star --out {out} --journey --layout concept-trak",
        "--layout does not go with --journey: leave it out",
    ),
    "journey of no prompt": (
        "concept {trak} '' --local {file} --out {out} --journey",
        "--journey is of the making of a prompt's picture: give a prompt",
    ),
    "journey of an index that serves none": (
        "concept {concept} 'a star' --concept star --out {out} --journey",
        "build one for journey-trak",
    ),
    "groups of a journey": (
        DRAWN + "--groups star --journey",
        "--journey does not go with --groups: leave it out",
    ),
    "groups of none": (
        FILE + "--groups zebra",
        "no image of the index is in the group 'zebra': give groups that some are in and some",
    ),
    "groups by trak": (
        FILE + "--groups star --method trak",
        "trak cannot be asked for groups of training images (--groups): these take it: guda",
    ),
    "judge": (FILE + "--judge a:b", "--judge looks at every step of a picture's making: give --jo"),
    "no judge": (DRAWN + "--journey --judge ab", "--judge 'ab' must be module:function"),
    "no module": (DRAWN + "--journey --judge a9:b", "--judge: cannot import the module 'a9' (Modu"),
    "no lora": (INDEX + "--lora {tmp}/none", "cannot load --lora '{tmp}/none': give a folder or a"),
}


@pytest.mark.parametrize("command, said", REFUSED.values(), ids=REFUSED)
def test_refused(places, command, said):
    before = files(places["tmp"])
    result = headwater(*(part.format(**places) for part in shlex.split(command)))
    assert_refused(result, said.format(**places))
    assert files(places["tmp"]) == before


# --- answered -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curved(places) -> Path:
    return made(places["tmp"] / "ekfac", places["model"], places["images"], "ekfac", *SMALL)


@pytest.fixture(scope="module")
def usual(places) -> Path:
    """As it is built where no method is named."""
    folder = places["tmp"] / "usual"
    result = headwater("index", places["model"], places["images"], folder, *SMALL)
    assert result.code == 0, result.err
    return folder


@pytest.mark.parametrize("ask", ["contribution", "loss"])
def test_outputs_are_put_to_every_method_that_takes_them(curved, tmp_path, monkeypatch, ask):
    """Those too that take nothing else of words."""
    put = []
    monkeypatch.setattr(query, "answer", lambda session, queries, *more: put.append(more[-1]))
    takers = [name for name, method in METHODS.items() if ask in method.takes]
    for name in takers:
        options = ["--concept", "star", "--ask", ask, "--method", name, "--out", tmp_path]
        assert headwater("concept", curved, PROMPT, *options).code == 0
    assert [options["method"] for options in put] == takers and "metagradient" in takers


@pytest.mark.parametrize(
    "of, options, kind",
    [
        ("curved", [], "contribution"),
        ("curved", ["--method", "ekfac-presence"], "contribution"),
        ("curved", ["--method", "presence"], "concept"),
        ("curved", ["--minus", "a moon"], "concept"),
        ("curved", ["--alternatives", "moon"], "contribution"),
        ("curved", ["--ask", "slider"], "concept"),
        ("usual", [], "contribution"),
        ("usual", ["--minus", "a moon"], "concept"),
        ("concept", [], "concept"),
        ("concept", ["--pictures", "{images}"], "contribution"),
    ],
)
def test_what_is_asked_where_nobody_says_it(
    request, places, tmp_path, monkeypatch, of, options, kind
):
    """What the method is for, unless an option is of sliders, or of outputs."""
    put = []
    monkeypatch.setattr(query, "answer", lambda session, queries, *more: put.extend(queries))
    index = places[of] if of in places else request.getfixturevalue(of)
    options = [part.format(**places) for part in options]
    asked = ("concept", index, PROMPT, "--concept", "star", *options, "--out", tmp_path / "out")
    made = headwater(*asked)
    assert made.code == 0, made.err
    assert [each.kind for each in put] == [kind]


@pytest.mark.parametrize(
    "options, asked_on",
    [
        ([], {"pictures": "auto"}),
        (["--context", "bare"], {"context": "bare"}),
        (["--guidance", 2], {"guidance": 2.0}),
        (["--pictures", "made", "--guidance", 2], {"pictures": "made", "guidance": 2.0}),
        (["--pictures", "training"], {"pictures": "training"}),
    ],
)
def test_on_which_pictures_words_are_asked(curved, tmp_path, monkeypatch, options, asked_on):
    put = []
    monkeypatch.setattr(query, "answer", lambda session, queries, *more: put.extend(queries))
    asked = ("concept", curved, PROMPT, "--concept", "star", *options, "--out", tmp_path / "out")
    made = headwater(*asked)
    assert made.code == 0, made.err
    assert put == [Contribution(PROMPT, "star", **asked_on)]


def test_what_words_gain_is_answered_with_presence(curved, places, tmp_path):
    asked = ["--concept", "star", "--ask", "contribution", "--pictures", places["images"]]
    options = ["--method", "ekfac-presence", "--draws", 2, "--out", tmp_path / "out", "--json"]
    others = ["--alternatives", "moon,heart"]
    result = headwater("concept", curved, PROMPT, *asked, *options, *others)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["method"] == "ekfac-presence"
    (result,) = found["results"]
    assert result["query"]["alternatives"] == ["heart", "moon"]


def test_groups_are_answered_by_guda(places, tmp_path, monkeypatch):
    options = guda.Options(steps=1, batch=2, timesteps=1, levels=2)
    monkeypatch.setattr(guda, "Options", lambda: options)
    table = tmp_path / "groups.csv"
    table.write_text("id,group\ntrain-00000.png,first\ntrain-00001.png,second\n")
    ask = ("image", places["trak"], places["file"], "--draws", 2, "--out", tmp_path / "out")
    result = headwater(*ask, "--groups", table, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["method"] == "guda" and "10 of 12 images are in no group" in result.err
    groups = answer["results"][0]["query"]["groups"]
    assert {one["id"] for one in answer["results"][0]["top"][:2]} == {
        "train-00000.png",
        "train-00001.png",
    }
    assert {row["group"] for row in groups} == {"first", "second"}


# --- the table ----------------------------------------------------------------------------------


def test_methods_in_json():
    result = headwater("methods", "--json")
    assert (result.code, result.err) == (0, "") and result.out.count("\n") == 1
    rows = {row["name"]: row for row in json.loads(result.out)}
    assert list(rows) == list(METHODS)
    picture = {"guidance": "noising/dsm", "draws": 32, "units per draw": 20, "units per image": 0}
    assert rows["trak"] == {
        "name": "trak",
        "paper": "Park 2023",
        "train": "noising/dsm",
        "normalise": "none",
        "rule": "trak",
        "curvature": "none",
        "takes": ["image", "patch", "step", "contribution", "loss"],
        "checkpoints": 1,
        "units per image": 20,  # a pass forward and one back to the layers, ten times
        "queries": {
            "image": picture | {"cost": "32x20"},
            "patch": picture | {"cost": "32x20"},
            "step": picture | {"units per draw": 2, "cost": "32x2"},
            "contribution": picture
            | {"guidance": "noising/contribution", "units per draw": 40, "cost": "32x40"},
            "loss": picture | {"cost": "32x20"},
        },
    }
    # and one back to the input, one to begin; guided one more at each step
    names = ("concept-trak-unguided", "concept-trak")
    assert [rows[name]["units per image"] for name in names] == [31, 41]
    assert rows["pixel-dot"]["units per image"] == 0 and rows["random"]["train"] == "-"
    assert set(rows["concept-trak-a"]["queries"]) == {
        "concept", "contribution", "loss", "local", "reward", "preference", "feature",
    }  # fmt: skip


def test_methods_in_a_terminal():
    result = headwater("methods")
    assert (result.code, result.err) == (0, "")
    table, notes = result.out.split("\n\n")
    head, *lines = table.splitlines()
    assert head.split() == ["method,", "questions", "guidance", "norm", "rule", "passes*"]
    assert max(map(len, result.out.splitlines())) <= 80 and notes.startswith("* forward passes")
    rows = [line for line in lines if not line.startswith("  ")]
    assert [row.split()[0] for row in rows] == list(METHODS)
    groups = table.split("\n" + "concept-trak-a ")[0].splitlines()[1:]
    assert [group.split() for group in groups] == [
        ["concept-trak", "inversion/dps", "@7.5", "probe", "trak", "41"],
        ["concept,", "local", "generation/concept", "Park", "2025", "32x30"],
        ["contribution", "noising/contribution", "32x40"],
        ["loss", "noising/dsm", "32x20"],
        ["reward", "generation/reward", "32x30"],
        ["preference", "inversion/preference", "@7.5", "82", "a", "pair"],
        ["feature", "feature", "-"],
        ["image", "inversion/dps", "@7.5", "41"],
        ["patch", "noising/concept", "32x30"],
    ]
    for name, row in zip(METHODS, rows, strict=True):  # paper and questions of each
        own = table.split(f"\n{row}\n")[1]
        own = "\n".join(takewhile(lambda line: line.startswith("  "), own.splitlines()))
        assert METHODS[name].facts()["paper"] in own
        takes = METHODS[name].takes
        assert "any" in own if name == "random" else all(kind in own for kind in takes), name


# --- answered -----------------------------------------------------------------------------------


def asked(*args: object) -> dict:
    """The answer; nothing is said beside it but a bar, on a slow machine."""
    result = headwater(*args, "--json", "--fresh")
    assert result.code == 0 and result.err.rpartition("\r")[2] == "", result.err
    return json.loads(result.out)


def top(answer: dict) -> dict[str, float]:
    """The scores of the first question's proponents, by id."""
    return {entry["id"]: entry["score"] for entry in answer["results"][0]["top"]}


def test_a_file_is_answered(places, tmp_path):
    command = ("image", places["trak"], places["file"], "--prompt", PROMPT, "--draws", 3)
    answer = asked(*command, "--out", tmp_path)
    (result,) = answer["results"]
    assert (answer["method"], result["question"], result["title"]) == (
        "trak",
        "image",
        "the picture",
    )
    assert answer["provenance"]["picture"] == {"file": str(places["file"])}
    assert result["certainty"]["draws"] == 3 == result["query"]["draws"]
    with PIL.Image.open(tmp_path / "query.png") as shown, PIL.Image.open(places["file"]) as own:
        assert shown.tobytes() == own.tobytes()
    text = headwater(*command, "--out", tmp_path)
    lines = text.out.splitlines()
    assert lines[1:3] == [f"the picture of '{PROMPT}'", "trak, asked of the picture"]


def test_a_drawn_picture_and_a_step_of_it(places, tmp_path):
    command = ("image", places["trak"], "--prompt", PROMPT, "--seed", 2, "--draws", 2)
    whole = asked(*command, "--out", tmp_path / "whole")
    step = asked(*command, "--step", 499, "--out", tmp_path / "step")
    assert step["results"][0]["question"] == "step" and step["results"][0]["query"]["step"] == 499
    assert step["results"][0]["title"] == "the picture at step 499"
    assert whole["provenance"]["picture"] == {"guidance": 5.0, "steps": 50, "seed": 2}
    assert top(whole) != top(step)
    pictures = [(tmp_path / name / "query.png").read_bytes() for name in ("whole", "step")]
    assert pictures[0] == pictures[1]


def test_a_white_mask_is_the_whole_picture(places, tmp_path):
    command = ("image", places["trak"], places["file"], "--draws", 2, "--out", tmp_path)
    whole, part = (asked(*command, *more) for more in ((), ("--mask", places["tmp"] / "white.png")))
    assert part["results"][0]["question"] == "patch"
    assert top(part) == pytest.approx(top(whole), rel=1e-4)


def test_an_inverted_picture_has_one_draw(places, tmp_path):
    answer = asked("image", places["concept"], places["file"], "--out", tmp_path)
    (result,) = answer["results"]
    assert answer["method"] == "concept-trak" and result["certainty"] is None
    assert result["query"]["draws"] == 1 and result["top"][0]["error"] is None


def test_a_model_without_prompts_is_asked_about_its_pictures(places, tmp_path):
    answer = asked("image", places["free"], "--seed", 1, "--draws", 2, "--out", tmp_path)
    assert len(top(answer)) == 10 and answer["prompt"] == ""


@pytest.mark.parametrize("method", ["gradient-dot", "journey-trak"])
def test_another_method_of_the_same_index(places, tmp_path, method):
    command = ("image", places["trak"], "--prompt", PROMPT, "--draws", 2, "--out", tmp_path)
    answer, own = asked(*command, "--method", method), asked(*command)
    assert answer["method"] == method and own["method"] == "trak"
    assert answer["provenance"]["rule"] == METHODS[method].rule
    assert top(answer) != top(own)


def test_several_dampings_are_one_answer_each(places, tmp_path):
    command = ("image", places["trak"], places["file"], "--draws", 2)
    sweep = asked(*command, "--damping", "0.01,10", "--out", tmp_path / "sweep")
    (result,) = sweep["results"]
    assert list(result["top by damping"]) == ["0.01", "10.0"]
    assert sweep["provenance"]["damping"] == [0.01, 10.0]
    table = pq.read_table(tmp_path / "sweep/the-picture/scores.parquet").to_pydict()
    assert table["score"] == table["score at damping 0.01"]
    for ratio in ("0.01", "10.0"):
        alone = asked(*command, "--damping", ratio, "--out", tmp_path / "alone")
        assert list(top(alone)) == result["top by damping"][ratio]
        assert "top by damping" not in alone["results"][0]
        own = dict(zip(table["id"], table[f"score at damping {ratio}"], strict=True))
        assert {id: own[id] for id in top(alone)} == pytest.approx(top(alone), rel=1e-3)
    assert table["score at damping 0.01"] != table["score at damping 10.0"]


def test_only_candidates_compete(places, tmp_path):
    command = ("image", places["trak"], places["file"], "--draws", 2, "--out", tmp_path)
    answer = asked(*command, "--candidates", "pixel:3")
    assert answer["provenance"]["candidates"] == "pixel:3"
    best = list(top(answer))
    assert places["file"].name in best[:3]  # the picture itself is the nearest
    (result,) = answer["results"]
    assert result["certainty"]["top"] == 3
    assert [entry["stays"] is not None for entry in result["top"]] == [True] * 3
    others = {id: score for id, score in top(asked(*command)).items() if id not in best[:3]}
    assert [id for id in best if id in others] == [id for id in others if id in best]


def test_swap_asks_for_the_want_of_a_concept(places, tmp_path):
    """Under a base of its own the two questions are exact opposites."""
    rest = ["--concept", "star", "--base", "a shape", "--context", "prompt", "--draws", 2]
    command = ("concept", places["concept"], PROMPT, *rest, "--out", tmp_path, "--top", 12)
    plain, swapped = asked(*command), asked(*command, "--swap")
    assert top(swapped) == pytest.approx({id: -score for id, score in top(plain).items()}, rel=1e-4)
    assert swapped["results"][0]["query"]["contexts"] == [["a red in hatched style", PROMPT]]
    assert swapped["results"][0]["context"].endswith("c+ and c- exchanged")


def test_a_case_study_is_asked_as_the_paper_asks_it(places, tmp_path):
    """In its one prompt, under its own base; here it equals the question spelt out."""
    command = ("concept", places["concept"], "--draws", 2, "--json")
    said = headwater(*command, "--preset", "distorted-hands", "--out", tmp_path / "preset")
    assert said.code == 0, said.err  # the small model does not read all of its words, and says so
    answer = json.loads(said.out)
    study, lack = answer["results"]
    plus, minus = study["plus"], study["minus"]
    assert (lack["plus"], lack["minus"]) == (minus, plus)
    assert study["query"]["base"] == lack["query"]["base"] == "hands"
    assert (tmp_path / "preset/the-lack-of-distorted-hands/top.png").is_file()
    spelt = ("--concept", "distorted hands", "--minus", minus, "--base", "hands", "--fresh")
    alone = json.loads(headwater(*command, plus, *spelt, "--out", tmp_path / "own").out)
    assert alone["results"][0]["query"]["contexts"] == study["query"]["contexts"]
    assert top(alone) == pytest.approx(top(answer), rel=1e-4)
    assert not study["reused_query_gradient"]


def test_the_published_layout(places, tmp_path):
    command = ("concept", places["concept"], PROMPT, "--concept", "star", "--draws", 2)
    result = headwater(*command, "--layout", "concept-trak", "--out", tmp_path, "--guidance", 1)
    assert result.code == 0, result.err
    assert result.out.splitlines()[-1] == f"Folders: {tmp_path}"
    (folder,) = tmp_path.iterdir()
    assert "-target_star-attn2-kv-dps-" in folder.name
    assert (folder / "topk-prompts-lambda_1.0e+00.txt").read_text().startswith("TopK\n0\ttrain\t")


def test_help_lists_the_case_studies():
    said = "".join(headwater("concept", "--help").out.split())
    assert all(name in said for name in ("mickey-mouse", "nudity", "shake-hands"))


def test_draws_auto_says_what_it_spent(places, tmp_path, monkeypatch):
    from headwater.attribution.scorers import gradient

    monkeypatch.setattr(gradient, "STABLE", 0.0)
    command = ("image", places["trak"], places["file"], "--draws", "auto", "--out", tmp_path)
    result = headwater(*command, "--fresh")
    assert result.code == 0
    assert result.err.startswith("the picture: 16 draws, on average an image of the top 10 stays")
    assert result.err.count("\n") == 1
    lines = result.out.splitlines()
    assert lines[3].startswith("16 draws; an image of the top 10 stays there in ")


def test_random_answers_any_question(places, tmp_path):
    command = ("--method", "random", "--out", tmp_path)
    one = asked("image", places["trak"], places["file"], *command)
    two = asked("concept", places["trak"], PROMPT, "--concept", "star", *command)
    assert one["method"] == two["method"] == "random" and top(one) != top(two)


def test_candidates_are_like_the_picture_whatever_the_method(places, tmp_path):
    """Of a file, by chance, and of a concept as the file shows it."""
    more = ("--candidates", "pixel:3", "--method", "random", "--out", tmp_path)
    file = asked("image", places["trak"], places["file"], *more)
    local = asked("concept", places["concept"], "", "--local", places["file"], *more)
    plain = asked("image", places["pixel"], places["file"], "--out", tmp_path)  # the same cosine
    for answer in (file, local):
        assert set(list(top(answer))[:3]) == set(list(top(plain))[:3])


def test_every_question_has_a_folder_of_its_own(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, other = places["file"], places["images"] / "train-00010.png"
    image = ("image", places["concept"], "--method", "random")
    concept = ("concept", places["concept"], PROMPT, "--method", "random")
    commands = {
        "image-train-00011-0": (*image, file),
        "image-train-00010-0": (*image, other),
        "patch-train-00010-0": (*image, other, "--mask", places["tmp"] / "white.png"),
        "image-a-red-star-in-hatched-style-0": (*image, "--prompt", PROMPT),
        "concept-star-in-a-red-star-in-hatched-style-0": (*concept, "--concept", "star"),
        "concept-red-in-a-red-star-in-hatched-style-0": (*concept, "--concept", "red"),
        "local-this-star-in-train-00011-0": (*concept, "--concept", "star", "--local", file),
    }
    for command in (*commands.values(), next(iter(commands.values()))):
        result = headwater(*command)
        assert result.code == 0, result.err
    folders = sorted(Path("headwater-answers").iterdir())
    assert [folder.name[:-7] for folder in folders] == sorted(commands)
    assert all((folder / "report.html").is_file() for folder in folders)


JUDGES = """
def reads(pictures):
    return {"a star": [i / len(pictures) for i in range(len(pictures))]}
"""


def test_a_judge_looks_at_every_step(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_judges.py").write_text(JUDGES)
    command = ("image", places["trak"], "--prompt", PROMPT, "--draws", 1, "--journey")
    answer = asked(*command, "--judge", "own_judges:reads", "--out", "out")
    assert answer["likelihood"] == {"a star": [0.0]}  # of the index's one timestep
    assert "When does each feature appear?" in (tmp_path / "out/report.html").read_text()
    assert "likelihood" not in asked(*command, "--out", "out")
    result = headwater(*command, "--judge", "own_judges:JUDGE", "--out", "none")
    assert_refused(result, "own_judges.py has no function 'JUDGE'")
    assert not (tmp_path / "none").exists()


def test_answers_and_the_making_of_their_picture_are_one_report(places, tmp_path):
    command = ("concept", places["trak"], PROMPT, "--concept", "star", "--draws", 2, "--journey")
    options = ("--group-by", "caption", "--guidance", 3, "--out", tmp_path)
    answer = asked(*command, *options)
    assert answer["method"] == "concept-trak-a" and len(answer["results"]) == 1
    journey = json.loads((tmp_path / "journey/journey.json").read_text())
    assert answer["journey"] == journey and journey["method"] == "journey-trak"
    alone = ("image", places["trak"], "--prompt", PROMPT, "--draws", 2, "--guidance", 3)
    steps = asked(*alone, "--journey", "--out", tmp_path / "alone")["steps"]
    assert [step["top"] for step in steps] == [step["top"] for step in journey["steps"]]
    page = (tmp_path / "report.html").read_text()
    assert page.index('“<em dir="auto">star</em>”') < page.index("<h2>Step by step</h2>")
    assert sorted(path.name for path in tmp_path.glob("*/*.json")) == [
        "journey.json", "journey.json", "result.json",
    ]  # fmt: skip
    printed = headwater(*command, *options).out
    assert "'star' in" in printed and f"the journey of {PROMPT!r}" in printed


def test_an_option_that_counts_is_not_refused(places, tmp_path):
    """Of words compared with pictures none does; of a picture that is drawn, guidance does."""
    command = ("concept", places["clip"], PROMPT, "--concept", "star", "--out", tmp_path)
    assert asked(*command)["method"] == "clip-dot"
    drawn = ("image", places["trak"], "--prompt", PROMPT, "--draws", 1, "--out", tmp_path)
    assert top(asked(*drawn)) != top(asked(*drawn, "--guidance", 9))


# --- outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["contribution", "loss"])
def test_an_output_is_asked_on_pictures_that_are_given(places, output):
    asked = ["--ask", output, "--pictures", places["images"], "--draws", 2, "--json"]
    command = ["concept", places["trak"], PROMPT, "--concept", "star", *asked]
    result = headwater(*command, "--out", places["out"] / output)
    assert result.code == 0, result.err
    (answer,) = json.loads(result.out)["results"]
    assert (answer["concept"], answer["question"]) == ("star", output)
    assert "2 pictures of" in answer["context"] and len(answer["top"]) == 10
    result = headwater(*command, "--anchor", "shape", "--out", places["out"] / "anchor")
    if output == "loss":
        assert result.code and "--anchor does not go with --ask loss" in result.err
    else:
        assert "gain over 'shape' on" in json.loads(result.out)["results"][0]["context"]
