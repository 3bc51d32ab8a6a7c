"""Data sets of `datasets`: in memory by their bytes, on disk by their lengths."""

import datasets
import pytest
from support.pictures import encoded, loaded, noise, same

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


# --- class labels ---------------------------------------------------------------------------------


def labelled(values=(0, 1, 1), column="label", **more) -> datasets.Dataset:
    table = {"image": [noise(seed) for seed in range(3)], column: list(values), **more}
    labels = datasets.ClassLabel(names=["tabby cat", "dog"])
    images = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
    return images.cast_column(column, labels)


def as_saved(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "set")
    return tmp_path / "set"


def as_parquet(tmp_path, dataset):
    dataset.to_parquet(tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


@pytest.mark.parametrize("write", [as_saved, as_parquet])
@pytest.mark.parametrize("column", ["label", "labels"])
def test_names_of_classes_are_captions_where_there_are_no_others(tmp_path, write, column):
    data, said = loaded(write(tmp_path, labelled(column=column)))
    assert [sample.caption for sample in data.samples] == ["tabby cat", "dog", "dog"]
    assert said == [
        f"it has no captions; the names of the classes in {column!r} are taken for them, such as "
        "'tabby cat'; --caption-column names another column"
    ]


def test_captions_come_before_labels_unless_a_label_is_named():
    dataset = labelled(text=["a", "b", "c"])
    assert [sample.caption for sample in from_hf_dataset(dataset).samples] == ["a", "b", "c"]
    named = from_hf_dataset(dataset, caption_column="label")
    assert [sample.caption for sample in named.samples] == ["tabby cat", "dog", "dog"]
    other = from_hf_dataset(labelled(column="breed"))  # which may be of anything
    assert not any(sample.caption for sample in other.samples)


def test_images_without_a_class_are_counted(tmp_path):
    data, said = loaded(as_saved(tmp_path, labelled([0, None, -1])), caption_column="label")
    assert [sample.caption for sample in data.samples] == ["tabby cat", "", ""]
    assert len(said) == 1 and said[0].startswith("2 caption(s) are no text")


def test_a_label_that_is_no_class_is_no_caption(tmp_path):
    with pytest.raises(DatasetError, match="no column 'number' of text"):
        from_hf_dataset(dataset().add_column("number", [1, 2, 3]), caption_column="number")


# --- streams --------------------------------------------------------------------------------------


def test_what_is_said_of_a_stream_works(tmp_path, monkeypatch):
    stream = dataset().to_iterable_dataset()
    with pytest.raises(DatasetError, match="is a stream") as excinfo:
        from_hf_dataset(stream)
    monkeypatch.chdir(tmp_path)
    eval(str(excinfo.value).split("`")[1], {"stream": stream, "N": 2})
    data = load_dataset(tmp_path / "images.parquet")
    assert [sample.caption for sample in data.samples] == ["a", "b"]
    assert same(data.image(1), noise(1))


@pytest.mark.parametrize("wrong", [[1, 2], "a/b", None, datasets.DatasetDict()])
def test_other_objects_are_refused(wrong):
    with pytest.raises(DatasetError, match=r"give one split of a `datasets\.Dataset`"):
        from_hf_dataset(wrong)
