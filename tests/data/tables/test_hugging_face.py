"""Data sets of `datasets`: in memory by their bytes, on disk by their lengths."""

import datasets
import pytest
from support.pictures import encoded, noise

from headwater.data.sources import load_dataset
from headwater.data.tables.hugging_face import from_hf_dataset
from headwater.errors import DatasetError

datasets.disable_progress_bars()


def dataset(first_seed: int = 0) -> datasets.Dataset:
    images = [noise(seed) for seed in range(first_seed, first_seed + 3)]
    table = {"image": images, "text": ["a", "b", "c"]}
    return datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())


def test_other_images_of_the_same_size_are_another_data_set_in_memory():
    assert {len(encoded(noise(seed))) for seed in range(6)} == {len(encoded(noise(0)))}
    data = from_hf_dataset(dataset())
    assert from_hf_dataset(dataset()).fingerprint == data.fingerprint
    assert from_hf_dataset(dataset(3)).fingerprint != data.fingerprint


def test_on_disk_lengths_stand_for_images(tmp_path):
    dataset().save_to_disk(tmp_path / "set")
    data = load_dataset(tmp_path / "set")
    assert list(data.contents) == [len(encoded(noise(seed))) for seed in range(3)]


def test_part_in_memory_counts_as_memory(tmp_path):
    dataset().save_to_disk(tmp_path / "set")
    loaded = datasets.load_from_disk(str(tmp_path / "set"))
    data = from_hf_dataset(datasets.concatenate_datasets([loaded, dataset(3)]))
    assert len(data) == 6 and all(isinstance(content, str) for content in data.contents)


@pytest.mark.parametrize("wrong", [[1, 2], "a/b", None, datasets.DatasetDict()])
def test_other_objects_are_refused(wrong):
    with pytest.raises(DatasetError, match=r"give one split of a `datasets\.Dataset`"):
        from_hf_dataset(wrong)
