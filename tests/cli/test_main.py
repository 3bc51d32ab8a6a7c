"""The command line as a user meets it: every refusal is one line, every answer keeps its shape."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors import safe_open
from support.command_line import (
    FAST,
    PROMPT,
    REMARKS,
    Result,
    assert_refused,
    files,
    headwater,
    shell,
)
from support.index_files import rewrite_manifest
from support.processes import in_a_process, in_a_terminal_of_windows
from support.tiny import tiny_folder, tiny_pipeline, tiny_unconditional
from support.tiny_parts import LATENT

from headwater import Index
from headwater.errors import HeadwaterWarning

DATA = os.environ.get("HEADWATER_DATA")


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model, tiny_images) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "index"
    result = headwater("index", tiny_model, tiny_images, folder, *FAST)
    assert (result.code, result.out) == (0, f"20 rows of 64 features in {folder}\n")
    assert REMARKS.fullmatch(result.err) and "--parameters attn2 is taken, " in result.err
    return folder


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory, tiny_images) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    model = tiny_unconditional(folder / "ddpm")
    result = headwater("index", model, tiny_images, folder / "index", *FAST, "--parameters", "all")
    assert result.code == 0, result.err
    return folder / "index"


# --- refused ------------------------------------------------------------------------------------

INDEX = "index {model} {images} {out} --timesteps 2 "
CONCEPT = f"concept {{index}} '{PROMPT}' --concept star --fresh --out {{out}} "

REFUSED = {
    "no model": ("index {tmp}/none {images} {out}", "cannot load the model '{tmp}/none'"),
    "no data": ("index {model} {tmp}/none {out}", "no file or folder '{tmp}/none'"),
    "no images": ("index {model} {tmp}/empty {out}", "{tmp}/empty"),
    "limit": (INDEX + "--limit 0", "holds no images"),
    "method": (INDEX + "--method dsa", "no method 'dsa'; there are: concept-trak, concept-trak-a"),
    "parameters": (
        INDEX + "--parameters attn2.to_kk",
        "layer; nearest: down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_",
    ),
    "expression": (INDEX + "--parameters '('", "--parameters '(' is no regular expression"),
    "dim 0": (INDEX + "--dim 0", "--dim 0 must lie between 1 and "),
    "dim": (INDEX + "--dim 99999", "--dim 99999 must lie between 1 and "),
    "projection": (INDEX + "--projection dense", "'dense' is not one of count-sketch, factored"),
    "factored without a method": (
        INDEX + "--projection factored",
        "which the curvature of ekfac-presence needs: take another, or give a method without one",
    ),
    "checkpoint without a method": (
        INDEX + "--checkpoint {model}",
        "ekfac-presence is of one model, and --checkpoint gives more: leave it out, or give "
        "--method ekfac",
    ),
    "identity": (INDEX + "--projection identity --dim 8", "leave --dim 8 out"),
    "dtype": (INDEX + "--dtype int8", "--dtype 'int8' is not one of float32, bfloat16, float16"),
    "inversion": (
        INDEX + "--method concept-trak-a --inversion-guidance 2",
        "--inversion-guidance 2 is for methods that invert, and concept-trak-a does not: leave",
    ),
    "inversion of an unguided one": (
        INDEX + "--method concept-trak-unguided --inversion-guidance 2",
        "--inversion-guidance 2 is of concept-trak, and concept-trak-unguided is unguided: give",
    ),
    "inversion without": (
        INDEX + "--method concept-trak-c --inversion-guidance 1",
        "--inversion-guidance 1 is of concept-trak-c-unguided, and concept-trak-c is guided: give",
    ),
    "inversion without prompts": (
        "index {pixels} {images} {out} --method concept-trak",
        "guides its inversion (by 7.5) with prompts, and {pixels} reads none: give --method "
        "concept-trak-unguided",
    ),
    "timesteps 0": (INDEX + "--timesteps 0", "--timesteps 0 must lie between 1 and 1000"),
    "timesteps": (INDEX + "--timesteps 1001", "--timesteps 1001 must lie between 1 and 1000"),
    "batch size 0": (INDEX + "--batch-size 0", "--batch-size 0 must be at least 1, or auto"),
    "batch size x": (INDEX + "--batch-size x", "--batch-size 'x' must be a number, or `auto`"),
    "batch size": (INDEX + "--batch-size -4", "--batch-size -4 must be at least 1, or auto"),
    "device": (INDEX + "--device abacus", "cannot compute on --device 'abacus'"),
    "index is a file": ("index {model} {images} {tmp}/file", "{tmp}/file is a file"),
    "index in a file": ("index {model} {images} {tmp}/file/x", "{tmp}/file/x: Not a directory"),
    "index elsewhere": ("index {model} {images} {tmp}", "{tmp} holds other files"),
    "overwrite": (
        "index {model} {images} {tmp} --overwrite",
        "{tmp} holds no index, so --overwrite leaves it alone",
    ),
    "other recipe": (
        "index {model} {images} {index} --method concept-trak-unguided --timesteps 2 --dim 63",
        "{index} was begun with recipe dim = 64, this run has 63",
    ),
    "no index": (f"concept {{tmp}}/none '{PROMPT}' --concept star", "no index at {tmp}/none"),
    "not an index": (f"concept {{images}} '{PROMPT}' --concept star", "no index at {images}"),
    "no index, info": ("info {tmp}/none", "no index at {tmp}/none: build one with"),
    "unfinished": (f"concept {{tmp}}/begun '{PROMPT}' --concept star", "{tmp}/begun is unfinished"),
    "version": (f"concept {{tmp}}/newer '{PROMPT}' --concept star", "has format version 9"),
    "version, info": ("info {tmp}/newer", "has format version 9"),
    "damaged": (f"concept {{tmp}}/damaged '{PROMPT}' --concept star", "is damaged"),
    "word": (CONCEPT + "--concept moon", f"--concept 'moon' is not in the prompt '{PROMPT}'"),
    "part of a word": (CONCEPT + "--concept hatch", "--concept 'hatch' is not in the prompt"),
    "no word": (CONCEPT + "--concept ''", "--concept '' is not in the prompt"),
    "minus": (CONCEPT + f"--minus '{PROMPT}'", f"--minus '{PROMPT}' equals the prompt"),
    "no context": (CONCEPT + "--context {tmp}/none", "--context '{tmp}/none' is neither auto,"),
    "empty context": (CONCEPT + "--context {tmp}/blank", "{tmp}/blank holds no context"),
    "context": (CONCEPT + "--context {tmp}/context", "{tmp}/context line 2: c+ equals c-"),
    "draws": (CONCEPT + "--draws 0", "--draws 0 must be at least 1"),
    "top": (CONCEPT + "--top 0", "--top 0 must be at least 1"),
    "damping": (CONCEPT + "--damping -1", "--damping -1.0 must be"),
    "damping nan": (CONCEPT + "--damping nan", "--damping nan must be"),
    "damping x": (CONCEPT + "--damping x", "--damping 'x' must be a number, or several with comm"),
    "dampings": (CONCEPT + "--damping 0.1,-1", "--damping -1.0 must be"),
    "auto": (CONCEPT + "--draws any", "--draws 'any' must be a number, or `auto`"),
    "candidates": (
        CONCEPT + "--candidates 5",
        "--candidates '5' is none of clip:COUNT",
    ),
    "no clip": (CONCEPT + "--candidates clip:5", "needs a CLIP model: give its folder as --clip"),
    "not a clip": (CONCEPT + "--clip {tmp}/none", "cannot load the CLIP model '{tmp}/none'"),
    "not its method": (
        CONCEPT + "--method concept-trak-a",
        "this index was built for concept-trak-unguided and serves concept-trak-unguided, unlear",
    ),
    "not for concepts": (
        CONCEPT + "--method d-trak",
        "d-trak cannot be asked for a concept inside a prompt: these take it: concept-trak,",
    ),
    "no such method": (CONCEPT + "--method tark", "there is no method 'tark'; there are: concept-"),
    "out is a file": (CONCEPT + "--out {tmp}/file", "cannot write {tmp}/file"),
    "out in a file": (CONCEPT + "--out {tmp}/file/x", "cannot write {tmp}/file/x"),
    "concept is a file": (
        CONCEPT + "--out {tmp}/taken",
        "cannot write {tmp}/taken/star: File exists: name another",
    ),
    "no prompts": (
        f"concept {{unconditional}} '{PROMPT}' --concept star --out {{out}}",
        "reads no prompts, so it cannot be asked for a concept",
    ),
}


@pytest.fixture
def places(tmp_path, tiny_model, tiny_images, index, unconditional) -> dict[str, Path]:
    """What stands for {tmp}, {index}, ... in the table."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/star").write_text("a file")
    (tmp_path / "blank").write_text("\n  \n")
    (tmp_path / "context").write_text("a blue star\na moon\n")
    for name in ("begun", "newer", "damaged"):
        shutil.copytree(index, tmp_path / name)
    rewrite_manifest(tmp_path / "begun", complete=False, shards=())
    rewrite(tmp_path / "newer/index.json", version=9)
    (tmp_path / "damaged/features/00000.safetensors").write_bytes(b"short")
    return {
        "tmp": tmp_path,
        "out": tmp_path / "out",
        "model": tiny_model,
        "images": tiny_images,
        "index": index,
        "unconditional": unconditional,
        "pixels": unconditional.with_name("ddpm"),
    }


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("command, said", REFUSED.values(), ids=REFUSED)
def test_refused(places, monkeypatch, command, said):
    monkeypatch.chdir(places["tmp"])
    watched = (places["tmp"], places["index"])
    before = files(*watched)
    result = headwater(*(part.format(**places) for part in shlex.split(command)))
    assert_refused(result, said.format(**places))
    after = files(*watched)
    wrote = {str(path.relative_to(places["tmp"])) for path in after.keys() - before.keys()}
    # By then the query's picture is drawn, and kept.
    assert wrote == (
        {"taken/query.png", "taken/query.safetensors"} if "taken" in command else set()
    )
    assert before.items() <= after.items()


UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    "broken",
    [
        ("model_index.json", b"{broken"),
        ("model_index.json", b"[]"),
        ("model_index.json", None),
        (UNET, None),
        (UNET, b"short"),
        ("text_encoder/model.safetensors", None),
        ("text_encoder/model.safetensors", b"short"),
        ("scheduler/scheduler_config.json", b"nonsense"),
        ("unet/config.json", None),
        ("unet/config.json", b"{}"),
        ("tokenizer/tokenizer.json", b"nonsense"),
    ],
    ids=lambda broken: f"{broken[0]}-{broken[1]}",
)
def test_a_model_that_cannot_be_read(tmp_path, tiny_model, tiny_images, broken):
    name, content = broken
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / name).unlink()
    if content is not None:
        (model / name).write_bytes(content)
    out = tmp_path / "index"
    result = headwater("index", model, tiny_images, out, *FAST)
    assert_refused(result, f"cannot load the model '{model}'")
    assert not out.exists()


def test_a_model_that_changed_after_indexing(tmp_path, tiny_images):
    model, index, out = (tmp_path / name for name in ("model", "index", "out"))
    tiny_pipeline(model)
    assert headwater("index", model, tiny_images, index, *FAST).code == 0
    tiny_pipeline(model, seed=1)
    result = headwater("concept", index, PROMPT, "--concept", "star", "--out", out)
    assert_refused(result, f"the model '{model}' is not the one that {index} was built with")
    assert not out.exists()


def test_a_bad_image_is_named_or_skipped(tmp_path, tiny_model, tiny_images):
    images = shutil.copytree(tiny_images, tmp_path / "images")
    (images / "train-00003.png").write_bytes(b"no image")
    command = ("index", tiny_model, images, tmp_path / "index", *FAST)
    assert_refused(headwater(*command), "'train-00003.png'")
    result = headwater(*command, "--skip-bad")
    assert REMARKS.sub("", result.err) == "skipped 1 bad file(s): train-00003.png\n"
    assert result.out.startswith("19 rows ")


def test_ctrl_c(index, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("headwater.storage.manifest.read_manifest", interrupted)
    result = headwater("info", index)
    assert (result.code, result.out) == (130, "")
    assert result.err.startswith("headwater: interrupted; ") and result.err.count("\n") == 1


@pytest.mark.parametrize("place", ["index", "query"])
def test_one_warning_with_the_words_that_were_lost(tmp_path, tiny_model, tiny_images, index, place):
    kept = " ".join(["red"] * 30)  # of 32 tokens, two mark the ends
    if place == "index":
        images = shutil.copytree(tiny_images, tmp_path / "images")
        row = {"file_name": "train-00000.png", "text": f"{kept} moon tree"}
        (images / "metadata.jsonl").write_text(json.dumps(row))
        result = headwater("index", tiny_model, images, tmp_path / "index", *FAST)
    else:
        prompt, options = f"{kept} moon tree", ["--concept", "red", "--context", "prompt"]
        result = headwater("concept", index, prompt, *options, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    (lost,) = [line for line in result.err.splitlines() if "longer than the" in line]
    which = "caption(s) longer than the 32 tokens" if place == "index" else "prompt(s) are longer"
    assert lost.startswith(f"warning: 1 {which}") and "lost the words 'moon tree'" in lost


# --- answered -----------------------------------------------------------------------------------

ASK = [PROMPT, "--concept", "star", "--concept", "hatched style"]


def without_caches(index: Path, to: Path) -> Path:
    ignore = shutil.ignore_patterns("queries", "kernels")
    return Path(shutil.copytree(index, to, ignore=ignore))


@dataclass(frozen=True)
class Asked:
    """The first question to an index, and its answer."""

    index: Path
    out: Path
    result: Result

    @property
    def answer(self) -> dict:
        return json.loads(self.result.out)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, index) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    copy, out = without_caches(index, folder / "index"), folder / "answer"
    result = headwater("concept", copy, *ASK, "--out", out, "--json")
    assert result.code == 0, result.err
    return Asked(copy, out, result)


def test_json(asked, tiny_images):
    assert asked.result.err == "" and asked.result.out.count("\n") == 1
    answer = asked.answer
    assert {"index", "prompt", "method", "results", "provenance"} <= set(answer)
    stated = [answer[key] for key in ("index", "prompt", "method", "out")]
    assert stated == [str(asked.index), PROMPT, "concept-trak-unguided", str(asked.out)]
    said = [tuple(each[key] for key in ("concept", "plus", "minus")) for each in answer["results"]]
    assert said == [
        ("star", PROMPT, "a red in hatched style"),
        ("hatched style", PROMPT, "a red star"),
    ]
    with (tiny_images / "metadata.jsonl").open() as metadata:
        captions = {row["file_name"]: row["text"] for row in map(json.loads, metadata)}
    for each in answer["results"]:
        for side, sign in (("top", -1), ("bottom", 1)):
            entries = each[side]
            assert [entry["rank"] for entry in entries] == list(range(1, 11))
            scores = [sign * entry["score"] for entry in entries]
            assert scores == sorted(scores) and len(set(scores)) > 1
            for entry in entries:
                keys = {"rank", "id", "score", "caption", "uri", "error", "stays", "near_copies"}
                assert set(entry) == keys
                assert entry["error"] > 0 and (entry["stays"] is None) == (side == "bottom")
                assert entry["caption"] == captions[entry["id"]]
                assert entry["uri"].endswith(entry["id"])
    manifest = json.loads((asked.index / "index.json").read_text())
    for part in ("model", "data", "recipe"):
        assert answer["provenance"][part] == manifest[part]
    assert answer["provenance"]["damping"] == 0.1


def test_the_folder_of_an_answer(asked):
    out, answer = asked.out, asked.answer
    parts = ("top.png", "bottom.png", "scores.parquet", "result.json")
    expected = {f"{folder}/{part}" for folder in ("star", "hatched-style") for part in parts}
    expected |= {"query.png", "query.safetensors", "report.html"}
    assert {str(path.relative_to(out)) for path in files(out)} == expected

    with Image.open(out / "query.png") as picture:
        assert picture.size == (2 * LATENT, 2 * LATENT)
    with safe_open(out / "query.safetensors", "np") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}
    assert shapes == {"noise": [1, 4, LATENT, LATENT], "latents": [1, 4, LATENT, LATENT]}
    for folder, each in zip(("star", "hatched-style"), answer["results"], strict=True):
        for sheet in ("top.png", "bottom.png"):
            with Image.open(out / folder / sheet) as picture:
                assert min(picture.size) > 100
        stored = json.loads((out / folder / "result.json").read_text())
        assert stored == {**each, "provenance": answer["provenance"]}

        table = pq.read_table(out / folder / "scores.parquet").to_pylist()
        assert sorted(row["id"] for row in table) == [f"train-{i:05d}.png" for i in range(20)]
        ranked = sorted(table, key=lambda row: -row["score"])
        assert [row["rank"] for row in ranked] == list(range(1, 21))
        last = [{**row, "rank": 21 - row["rank"]} for row in ranked[:9:-1]]
        for rows, side in ((ranked[:10], "top"), (last, "bottom")):
            own = [{"error": row.pop("standard_error"), **row} for row in rows]
            said = [
                {k: v for k, v in row.items() if k not in ("stays", "near_copies")}
                for row in each[side]
            ]
            assert own == said


def listed(answer: dict) -> list:
    return [(each["top"], each["bottom"]) for each in answer["results"]]


def test_the_same_question_again_gives_the_same_scores(asked, tmp_path):
    def kept() -> dict[Path, tuple[int, int]]:
        paths = (asked.index / "queries").glob("*.safetensors")
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    before = kept()
    assert len(before) == 11  # two gradients in five parts each, and the picture of the prompt
    again = headwater("concept", asked.index, *ASK, "--out", tmp_path, "--json")
    lines = again.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["star", "hatched style"]
    assert all("using the query gradient computed before (--fresh" in line for line in lines)
    assert kept() == before
    assert listed(json.loads(again.out)) == listed(asked.answer)

    fresh = headwater("concept", asked.index, *ASK, "--out", tmp_path, "--json", "--fresh")
    assert fresh.err == ""
    assert listed(json.loads(fresh.out)) == listed(asked.answer)
    assert kept().keys() == before.keys()
    assert len(kept().items() & before.items()) == 1  # the picture, which is no gradient


@pytest.mark.parametrize("folder", ["queries", "kernels"])
def test_what_was_kept_and_cannot_be_read_is_computed_again(asked, tmp_path, folder):
    copy = shutil.copytree(asked.index, tmp_path / "index")
    for path in (copy / folder).iterdir():
        path.write_bytes(path.read_bytes()[:50])
    result = headwater("concept", copy, *ASK, "--out", tmp_path / "out", "--json")
    assert listed(json.loads(result.out)) == listed(asked.answer)


def test_the_table_fits_a_terminal(tmp_path, tiny_model):
    images = tiny_folder(tmp_path / "images", 6)
    rows = []
    for row, path in enumerate(sorted(images.glob("*.png"))):
        path.rename(images / f"{row}-{'long-' * 20}.png")
        rows.append({"file_name": f"{row}-{'long-' * 20}.png", "text": "a star\nof\t words " * 9})
    (images / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert headwater("index", tiny_model, images, tmp_path / "index", *FAST).code == 0
    ask = ("concept", tmp_path / "index", "a red star", "--concept", "star", "--context", "bare")
    result = headwater(*ask, "--top", 4, "--out", tmp_path / "out")
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[1:3] == [
        "'star' in 'a red star'",
        "concept-trak-unguided, asked the bare words against the empty prompt",
    ]
    assert re.fullmatch(
        r"\d+ draws; an image of the top \d+ stays there in \d+% of resamples", lines[3]
    )
    assert lines[5].split() == ["rank", "score", "id", "caption"]
    table, report = lines[6:-2], lines[-1]
    assert [line.split()[0] for line in table] == ["1", "2", "3", "4"]
    assert max(map(len, table)) == 80 and all("a star of words" in line for line in table)
    scores = [float(line.split()[1]) for line in table]
    assert scores == sorted(scores, reverse=True)
    assert report == f"Report: {tmp_path / 'out/report.html'}"


def test_an_answer_goes_to_a_folder_named_after_the_question(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ("concept", index, *ASK, "--seed", 3, "--draws", 2)
    result = headwater(*command)
    (folder,) = Path("headwater-answers").iterdir()
    assert re.fullmatch("concept-star-hatched-style-in-a-red-star-in-3-[0-9a-f]{6}", folder.name)
    assert (
        result.out.endswith(f"Report: {folder}/report.html\n") and (folder / "report.html").exists()
    )
    assert headwater(*command, "--top", 4, "--fresh").code == 0  # the same, shown in another way
    assert headwater("concept", index, *ASK[:3], "--seed", 3, "--draws", 2).code == 0
    first, second = sorted(Path("headwater-answers").iterdir())
    assert first == folder and second.name.startswith(
        "concept-star-in-a-red-star-in-hatched-style-3-"
    )


def test_columns_and_splits_by_name(tiny_model, tiny_images, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split, names in (("train", "abc"), ("test", "de")):
        pictures = [path.read_bytes() for path in sorted(tiny_images.glob("*.png"))[: len(names)]]
        said = [f"a {name} in test" for name in names]
        pq.write_table(pa.table({"picture": pictures, "said": said}), data / f"{split}.parquet")
    given = ["index", tiny_model, data, tmp_path / "index", *FAST, "--split", "test"]
    left_out, refused = headwater(*given).err.splitlines()
    assert left_out.startswith("warning: ") and "are not of the split 'test'" in left_out
    assert "no column 'image' of images; name as --image-column one of" in refused
    given += ["--image-column", "picture", "--caption-column", "said"]
    assert headwater(*given).code == 0
    with pytest.warns(HeadwaterWarning, match="are not of the split 'test'"):
        found_later = Index.open(tmp_path / "index").training_set
    assert [sample.caption for sample in found_later.samples] == ["a d in test", "a e in test"]


def test_info(index, tmp_path):
    result = headwater("info", index, "--json")
    assert (result.code, result.err) == (0, "")
    facts = json.loads(result.out)
    manifest = json.loads((index / "index.json").read_text())
    assert facts["state"] == "complete" and facts["rows"] == 20 and facts["skipped"] == 0
    assert facts["shards"] == "1 of 1 whole" and facts["methods"] == (
        "concept-trak-unguided, unlearning, mucs, guda, nda, presence, random"
    )
    assert facts["model"] == manifest["model"]["source"]
    assert facts["features"] == "64 by count-sketch, seed 0" and facts["timesteps"] == "499 999"
    text = headwater("info", index).out
    assert [line.partition("  ")[0] for line in text.splitlines()] == list(facts)
    assert all(str(value) in text for value in facts.values())

    damaged = shutil.copytree(index, tmp_path / "index")
    (damaged / "features/00000.safetensors").write_bytes(b"short")
    result = headwater("info", damaged)
    assert result.code == 2 and "0 of 1 whole" in result.out
    assert result.err.startswith("headwater: 1 shard(s) of ") and result.err.count("\n") == 1


def test_dry_run(tmp_path, tiny_model, tiny_images):
    out = tmp_path / "index"
    result = headwater("index", tiny_model, tiny_images, out, *FAST, "--dry-run", "--limit", 8)
    facts = dict(line.rsplit(None, 1) for line in result.out.splitlines())
    assert result.code == 0 and REMARKS.fullmatch(result.err) and not out.exists()
    shown = ("models", "rows", "probes", "dim")
    assert [facts[key] for key in shown] == ["1", "8", "16", "64"]
    assert int(facts["memory (MB, peak)"]) > 100 and facts["batch size"] == "8"


def test_dry_run_of_several_models(tmp_path, tiny_model, tiny_images):
    """Checkpoints are looked at as in a run, and count."""
    other = tiny_pipeline(tmp_path / "other", seed=1)
    command = ("index", tiny_model, tiny_images, tmp_path / "index", *FAST, "--dry-run")
    result = headwater(*command, "--checkpoint", other, "--method", "tracin")
    assert "models" in result.out and result.code == 0 and not (tmp_path / "index").exists()
    assert dict(line.rsplit(None, 1) for line in result.out.splitlines())["probes"] == "80"
    assert_refused(headwater(*command, "--method", "tracin"), "give at least 1 more with --check")
    none = ("--checkpoint", other, "--checkpoint", tmp_path / "none")
    assert_refused(headwater(*command, *none), f"cannot load the model '{tmp_path / 'none'}'")


def test_options_of_the_engine(tmp_path, tiny_model, tiny_images):
    """Each is in the recipe, and an index of it answers."""
    options = ["--projection", "factored", "--dtype", "bfloat16"]
    options += ["--method", "concept-trak", "--inversion-guidance", 3]
    kept = ["--encodings", tmp_path / "kept"]
    result = headwater("index", tiny_model, tiny_images, tmp_path / "index", *FAST, *options, *kept)
    assert result.code == 0, result.err
    manifest = json.loads((tmp_path / "index" / "index.json").read_text())
    recipe = manifest["recipe"]
    assert (recipe["projection"], recipe["inversion_guidance"]) == ("factored", 3.0)
    assert manifest["model"]["dtype"] == "bfloat16"
    assert len(list((tmp_path / "kept").rglob("latents/*/*.safetensors"))) == 20
    ask = ["--concept", "star", "--draws", 2, "--out", tmp_path / "out", "--json"]
    result = headwater("concept", tmp_path / "index", PROMPT, *ask)
    assert result.code == 0 and len(json.loads(result.out)["results"][0]["top"]) == 10
    said = headwater("info", tmp_path / "index").out.splitlines()
    assert [line.split() for line in said if "guidance" in line] == [["inversion", "guidance", "3"]]


# --- in a process of its own --------------------------------------------------------------------


HEAVY = {"torch", "numpy", "diffusers", "transformers", "pyarrow", "PIL", "jinja2", "tqdm"}


@pytest.mark.parametrize("args", [["--help"], ["concept", "--help"], ["evaluate", "--help"], []])
def test_help_imports_nothing_heavy(args):
    script = (
        "import sys\n"
        "from headwater.cli.main import main\n"
        "sys.argv = ['headwater', *sys.argv[1:]]\n"
        "try: main()\n"
        f"finally: print({HEAVY} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, *args]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0 and "Usage:" in run.stdout
    assert run.stdout.splitlines()[-1] == "set()"


def test_the_package_can_be_run():
    command = [sys.executable, "-m", "headwater", "info", "nowhere"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("headwater: no index at nowhere")


def test_ctrl_c_before_it_has_begun():
    """Importing the command line takes a moment."""
    script = (
        "import builtins, headwater.__main__\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *args):\n"
        "    if name == 'typer': raise KeyboardInterrupt\n"
        "    return load(name, *args)\n"
        "builtins.__import__ = interrupted\n"
        "headwater.__main__.main()"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (130, "", 1)
    assert run.stderr.startswith("headwater: interrupted; finished work is kept")


def test_an_answer_on_a_stdout_that_cannot_hold_it(asked, tmp_path):
    prompt = "a red star \N{BLACK STAR}"
    ask = ["concept", asked.index, prompt, "--concept", "star", "--context", "bare", "--draws", 2]
    table = in_a_process(in_a_terminal_of_windows, *ask, "--out", tmp_path / "table")
    assert table.code == 0, table.err
    assert "'star' in 'a red star \\u2605'" in table.out
    said = in_a_process(in_a_terminal_of_windows, *ask, "--out", tmp_path / "json", "--json")
    assert said.code == 0 and json.loads(said.out)["prompt"] == prompt


def test_refused_in_a_process_of_its_own(tmp_path, tiny_model, tiny_images):
    assert_refused(shell("info", tmp_path), f"no index at {tmp_path}")
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / UNET).unlink()
    result = shell("index", model, tiny_images, tmp_path / "index", *FAST)
    assert_refused(result, f"cannot load the model '{model}'")
    assert not (tmp_path / "index").exists()


def test_answered_in_a_process_of_its_own(asked, index, tmp_path):
    copy = without_caches(index, tmp_path / "index")
    options = ["--out", str(tmp_path / "out"), "--json"]
    arguments = ["concept", str(copy), *map(str, ASK), *options]
    # pandas takes half a second to import, and pyarrow does so where it can
    script = (
        "import atexit, sys; atexit.register(lambda: sys.stderr.write('pandas' * ('pandas' in "
        "sys.modules))); from headwater.__main__ import main; main()"
    )
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (run.returncode, run.stderr) == (0, "")
    assert listed(json.loads(run.stdout)) == listed(asked.answer)


# --- real data ----------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA, reason="HEADWATER_DATA is not set: see docs/data.md")
def test_a_few_real_pictures(tmp_path, tiny_model):
    data = Path(str(DATA)) / "emoji-styles" / "train.parquet"
    if not data.exists():
        pytest.skip("HEADWATER_DATA has no emoji-styles/train.parquet")
    first = next(pq.ParquetFile(data).iter_batches(6, columns=["id", "caption"])).to_pylist()
    index, out = tmp_path / "index", tmp_path / "out"
    result = headwater("index", tiny_model, data, index, *FAST, "--limit", 6)
    assert result.code == 0 and result.out.startswith("6 rows of 64 features")
    assert pq.read_table(index / "samples.parquet").column("id").to_pylist() == [
        str(row["id"]) for row in first
    ]
    words = first[0]["caption"].split()[-1]
    ask = ("concept", index, first[0]["caption"], "--concept", words)
    result = headwater(*ask, "--out", out, "--json", "--draws", 2)
    assert result.code == 0, result.err
    (answer,) = json.loads(result.out)["results"]
    assert len(answer["top"]) == 6 and {e["id"] for e in answer["top"]} == {
        str(row["id"]) for row in first
    }
