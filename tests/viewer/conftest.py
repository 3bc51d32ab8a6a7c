"""Three small indexes that pages are opened on: of all images, of fewer, and of journeys."""

import json
from pathlib import Path

import pytest
from support.page import FRESH, after

from headwater import Denoiser, Session, build_index, load_dataset
from headwater.scenes.dataset import pictures
from headwater.viewer import desk as asking
from headwater.viewer.desk import Desk

STRANGE = '<img src=x onerror="window.hit=1"> star'  # a caption that would be a script


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tiny_model) -> dict[str, Path]:
    """Folders of the indexes, by name."""
    out = tmp_path_factory.mktemp("viewer")
    images = _images(out / "images")
    model, same = Denoiser.load(tiny_model), dict(timesteps=2, dim=64, self_check=False)
    data = load_dataset(images)
    build_index(model, data, out / "all", method="concept-trak-unguided", **same)
    build_index(model, data.first(10), out / "fewer", method="concept-trak-unguided", **same)
    build_index(model, data, out / "journeys", method="journey-trak", **same)
    return {name: out / name for name in ("all", "fewer", "journeys")}


def _images(folder: Path) -> Path:
    """Twelve scenes in two folders; one has a name and a caption that would be scripts."""
    lines = []
    for number, picture in enumerate(pictures("train")[:12]):
        name = f"{'even' if number % 2 == 0 else 'odd'}/{number:02}.png"
        caption = picture.caption
        if number == 11:
            name, caption = "odd/<i>11.png", STRANGE
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.draw().resize((16, 16)).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def sessions(folders) -> dict[str, Session]:
    return {name: Session.open(folder) for name, folder in folders.items()}


@pytest.fixture
def desk(sessions, tmp_path) -> Desk:
    return Desk(sessions, tmp_path)


@pytest.fixture(scope="session")
def star(sessions):
    """What a page holds after it asked for the star."""
    return after(FRESH, asking.ask(Desk(sessions, Path()), FRESH))


@pytest.fixture(scope="session")
def usual(tmp_path_factory, folders, sessions):
    """On an index as it is built where no method is named."""
    data, out = load_dataset(folders["all"].parent / "images"), tmp_path_factory.mktemp("usual")
    options = dict(timesteps=1, dim=32, parameters="attn2-kv", self_check=False)
    return Session(build_index(sessions["all"].denoiser, data, out / "index", **options))
