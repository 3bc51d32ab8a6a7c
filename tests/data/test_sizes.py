"""How large pictures are, by the heads of their files."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from headwater import from_images, load_dataset
from headwater.data.sizes import picture_sizes


def test_files_by_their_heads_as_people_see_them(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=turned)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    data = load_dataset(tmp_path)
    assert picture_sizes(data) == {"bad.png": None, "turned.jpg": (30, 20), "wide.png": (20, 30)}
    for name in ("turned.jpg", "wide.png"):  # as the model is to see them
        row = [sample.id for sample in data.samples].index(name)
        assert data.image(row).size[::-1] == picture_sizes(data)[name]


def test_pictures_that_are_no_files(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "PNG")
    rows = [{"image": {"bytes": file.getvalue()}, "text": "a"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert list(picture_sizes(load_dataset(tmp_path / "data.parquet")).values()) == [(4, 8)]


def test_many_are_looked_at_here_and_there():
    data = from_images([Image.new("RGB", (2, 2))] * 120, [""] * 120)
    sizes = picture_sizes(data)
    assert len(sizes) == 40 and list(sizes)[1] == "row-00000003"
