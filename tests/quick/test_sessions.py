"""An index beside the images: built once, found again, and never mistaken for another's."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.index_files import rewrite_manifest
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, build_index, load_dataset, session_of
from headwater.errors import MismatchError, StoreError
from headwater.methods.table import DEFAULT_METHOD

peft = pytest.importorskip("peft")

SMALL = {"method": "trak", "timesteps": 1, "dim": 16}


@pytest.fixture
def data(tmp_path):
    return tiny_folder(tmp_path / "photos", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("quick") / "model")


@pytest.fixture
def lora(tmp_path):
    """Adapters by the names of the network alone."""
    torch.manual_seed(0)
    stem = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {
        f"{stem}.lora_A.weight": torch.randn(2, 16),
        f"{stem}.lora_B.weight": torch.randn(16, 2),
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


def opened(model, data, folder=None, **options):
    """The index, and whether it was built for this."""
    said = []
    session = session_of(model, data, folder, SMALL, said.append, **options)
    return session.index, any("built once" in line for line in said)


def test_it_lies_beside_the_images_and_is_found_again(model, data):
    before = sorted(data.iterdir())
    index, built = opened(model, data)
    assert built and index.path.parent == data.parent / "photos.headwater"
    again, rebuilt = opened(model, data)
    assert again.path == index.path and not rebuilt
    assert sorted(data.iterdir()) == before
    assert len(load_dataset(data)) == 4  # which it does not add to


@pytest.mark.parametrize("method", [{"method": "ekfac"}, {}], ids=["ekfac", "none named"])
def test_one_with_a_curvature_is_found_again(model, data, method):
    """Its rows serve the method that it was built for, in whichever metric they are."""
    said = []
    for _ in range(2):
        session = session_of(model, data, None, {**method, "timesteps": 1, "dim": 16}, said.append)
    assert session.index.recipe.curvature == "ekfac"
    assert [line.endswith(", which is built once") for line in said if "index" in line] == [
        True, False
    ]  # fmt: skip


def test_other_images_other_adapters_and_another_type_have_another(model, data, lora):
    paths = [opened(model, data)[0].path]
    adapted, _ = opened(model, data, lora=lora)
    assert all(".lora_" in name for name in adapted.recipe.layers)
    paths.append(adapted.path)
    paths.append(opened(model, data, lora=lora, lora_scale=0.5)[0].path)
    save_file({name: 2 * tensor for name, tensor in load_file(lora).items()}, lora)
    paths.append(opened(model, data, lora=lora)[0].path)  # trained on, in the same place
    paths.append(opened(model, data, dtype=torch.bfloat16)[0].path)
    captions = data / "metadata.jsonl"
    captions.write_text(captions.read_text().replace("a ", "one "))
    paths.append(opened(model, data)[0].path)
    assert len(set(paths)) == len(paths)
    assert not opened(model, data, device="cpu")[1]  # which changes nothing


def test_a_model_that_was_trained_on_in_its_place(model, data, tmp_path):
    mine = shutil.copytree(model, tmp_path / "mine")
    first, _ = opened(mine, data)
    shutil.copytree(tiny_pipeline(tmp_path / "other", seed=1), mine, dirs_exist_ok=True)
    for file in mine.rglob("*.safetensors"):
        os.utime(file, (1, 1))
    second, built = opened(mine, data)
    assert built and second.path != first.path


def test_a_folder_of_ones_own(model, data, tmp_path):
    index, built = opened(model, data, tmp_path / "index")
    assert built and index.path == tmp_path / "index"
    assert not opened(model, data, tmp_path / "index")[1]
    with pytest.raises(MismatchError, match="was begun with recipe layers"):
        session_of(model, data, tmp_path / "index", SMALL | {"parameters": "all"})


def test_a_build_that_was_interrupted_goes_on(model, data):
    index, _ = opened(model, data)
    rewrite_manifest(index.path, complete=False)
    again, built = opened(model, data)
    assert built and again.path == index.path and again.manifest.complete


def test_an_index_that_another_method_began_is_finished_removed_or_left(model, data, tmp_path):
    """As one that the former default began, and was killed; each of the mends does it."""
    folder = tmp_path / "an index"
    options = {"timesteps": 1, "dim": 16, "parameters": "attn2-kv", "self_check": False}
    other = options | {"method": "concept-trak-unguided"}
    session_of(model, data, folder, other)
    rewrite_manifest(folder, complete=False)
    with pytest.raises(MismatchError) as caught:
        session_of(model, data, folder, options)
    said, quoted = str(caught.value), f"'{folder}'"
    assert said.startswith(f"{folder} was begun with recipe curvature = ")
    finish = f"finish it by `headwater index MODEL DATA {quoted} --method concept-trak-unguided`"
    assert finish in said and f"remove it (`rm -r {quoted}`)" in said
    assert said.endswith("or give another folder as --index") and "--overwrite" not in said
    assert session_of(model, data, tmp_path / "other", options).index.manifest.complete
    build_index(Denoiser.load(model), load_dataset(data), folder, **other)
    found = session_of(model, data, folder, {"dim": 16})  # with nothing else said, as `why` asks
    assert found.index.recipe.method == "concept-trak-unguided"
    rewrite_manifest(folder, complete=False)
    shutil.rmtree(folder)
    assert session_of(model, data, folder, options).index.recipe.method == DEFAULT_METHOD


def test_where_nothing_can_be_written(model, data):
    (data.parent / "photos.headwater").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write .* give another folder .* as --index"):
        opened(model, data)


def test_images_of_no_folder_have_theirs_where_one_is(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index, _ = opened(model, load_dataset("scenes:validation").first(2))
    assert index.path.parent.as_posix() == "headwater-indexes/scenes-validation"
