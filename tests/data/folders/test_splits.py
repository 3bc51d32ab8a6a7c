"""Splits by name, against what `datasets` itself finds in the same files."""

import datasets
import pytest
from datasets.data_files import EmptyDatasetError, get_data_patterns, resolve_pattern
from support.pictures import loaded, write_pictures

from headwater.data.folders import splits
from headwater.data.sources import load_dataset
from headwater.errors import DatasetError

LAYOUTS = {
    "folders": ["train/a.png", "validation/b.png", "test/c.png", "d.png"],
    "deep": ["x/train/y/a.png", "x/dev/b.png", "x/evaluation/c.png"],
    "numbered": ["train2017/a.png", "my-val_2/b.png", "old test/c.png"],
    "near misses": ["training_set/a.png", "trains/b.png", "xtrain/c.png", "testament/d.png"],
    "both": ["train/test/a.png", "train/b.png"],
    "one": ["test/a.png", "cats/b.png"],
    "none": ["cats/a.png", "dogs/b.png"],
    "upper case": ["Train/a.png", "TEST/b.png"],
    "file names": ["train-0.parquet", "train_1.parquet", "x.validation.parquet", "eval 3.parquet"],
    "some file names": ["train-0.parquet", "part-1.parquet"],
    "shards": [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/extra-00000-of-00001.parquet",
        "test.parquet",
    ],
    "converted": ["default/train/0000.parquet", "default/test/0000.parquet"],
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_splits_are_those_that_datasets_finds(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    try:
        patterns = get_data_patterns(str(tmp_path))
    except EmptyDatasetError:
        patterns = {}
    theirs = {
        str(split): sorted({
            file.removeprefix(f"{tmp_path}/")
            for pattern in parts
            for file in _resolved(pattern, tmp_path)
        })
        for split, parts in patterns.items()
    }  # fmt: skip
    ours = splits.of_tables(sorted(names)) or {"train": sorted(names)}
    assert {split: sorted(files) for split, files in ours.items()} == theirs


def _resolved(pattern, folder):
    try:
        return resolve_pattern(pattern, str(folder))
    except FileNotFoundError:
        return []


def test_only_the_split_is_loaded_and_the_rest_is_counted(tmp_path):
    names = [f"{split}/{i}.png" for split in ("train", "validation", "test") for i in range(4)]
    write_pictures(tmp_path, *names, "stray.png")
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / ".cache")
    )
    for split in ("train", "test"):
        data, said = loaded(tmp_path, split=split)
        assert [s.id for s in data.samples] == [f"{split}/{i}.png" for i in range(4)]
        assert len(data) == len(theirs[split])
        others = [name for name in ("train", "validation", "test") if name != split]
        counts = ", ".join(f"{name} 4" for name in others)
        assert said == [
            f"9 of 13 files are not of the split {split!r} and are left out ({counts}, no split "
            "1); --split all takes all of them"
        ]
    data, said = loaded(tmp_path, split="all")
    assert len(data) == 13 and not said and data.options == {"split": "all"}


def test_what_is_chosen_can_be_opened_again(tmp_path):
    write_pictures(tmp_path, "train/a.png", "test/a.png")
    data, _ = loaded(tmp_path, split="test")
    again, _ = loaded(data.source, **data.options)
    assert again.fingerprint == data.fingerprint and [s.id for s in again.samples] == ["test/a.png"]


def test_a_split_that_is_not_there_is_refused(tmp_path):
    write_pictures(tmp_path, "test/a.png", "cats/b.png")
    with pytest.raises(DatasetError, match="no split 'train'; it has test; --split all takes all"):
        load_dataset(tmp_path)


def test_a_word_in_the_name_of_a_photograph_is_no_split(tmp_path):
    write_pictures(tmp_path, "train-station.jpg", "cat.png", "test 3.png")
    data, said = loaded(tmp_path)
    assert len(data) == 3 and not said


def test_images_whose_names_all_tell_a_split_are_split(tmp_path):
    write_pictures(tmp_path, "train-0.png", "train-1.png", "test-0.png")
    data, said = loaded(tmp_path)
    assert [s.id for s in data.samples] == ["train-0.png", "train-1.png"]
    assert len(said) == 1 and "(test 1)" in said[0]
    other = write_pictures(tmp_path / "held", "validation-0.png", "validation-1.png")
    assert len(load_dataset(other)) == 2  # of one kind: all are what was given
