"""Groups by a file, by words of captions, and by ids; and what is none."""

import pytest

from headwater import GroupedImage, from_images
from headwater.errors import QueryError
from headwater.scenes.dataset import pictures


@pytest.fixture(scope="module")
def samples():
    captions = ["a red star", "a blue star", "a red fish", "a house"]
    image = pictures("train")[0].draw().resize((8, 8))
    return from_images([image] * 4, captions, ids=list("abcd")).samples


def members(grouping):
    return {
        name: column.nonzero()[:, 0].tolist()
        for name, column in zip(grouping.names, grouping.members.T, strict=True)
    }


def test_words_are_groups_of_the_images_whose_caption_names_them(samples):
    grouping = GroupedImage(groups="star, red,star").grouping(samples)
    assert members(grouping) == {"star": [0, 1], "red": [0, 2]}
    assert grouping.remarks == (
        "1 of 4 images are in no group: they rank last",
        "1 images are in several groups: their score is the mean of these",
    )


def test_a_file_names_the_group_of_each_id(samples, tmp_path):
    file = tmp_path / "groups.csv"
    file.write_text("group,id\nfirst,a\nsecond,c\nfirst,b\nsecond,d\nsecond,z\n")
    grouping = GroupedImage(groups=str(file)).grouping(samples)
    assert members(grouping) == {"first": [0, 1], "second": [2, 3]}
    assert grouping.remarks == ("1 of 5 ids in groups are of no image of the index, such as 'z'",)
    same = GroupedImage(groups={"first": ["a", "b"], "second": ["c", "d"]}).grouping(samples)
    assert members(same) == members(grouping) and same.remarks == ()


@pytest.mark.parametrize(
    "groups, message",
    [
        ("moon", "no image of the index is in the group 'moon'"),
        ("a", "every image of the index is in the group 'a'"),
        (" , ", "names no group"),
        ("nowhere.csv", "cannot read --groups 'nowhere.csv'"),
        ({"one": ["z"]}, "no image of the index is in the group 'one'"),
    ],
)
def test_groups_that_cannot_be(samples, groups, message):
    with pytest.raises(QueryError, match=message):
        GroupedImage(groups=groups).grouping(samples)


def test_files_that_cannot_be_read(samples, tmp_path):
    file = tmp_path / "groups.csv"
    file.write_text("name,group\na,first\n")
    with pytest.raises(QueryError, match="has no column 'id'"):
        GroupedImage(groups=file).grouping(samples)


def test_questions_that_cannot_be():
    with pytest.raises(QueryError, match="--groups is empty"):
        GroupedImage("a star")
    with pytest.raises(QueryError, match="leave out --mask and --step"):
        GroupedImage("a star", step=99, groups="star")
