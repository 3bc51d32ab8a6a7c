"""The commands of docs/start/lora.md, as a new user would run them, on a tiny LoRA."""

import re
import shlex
from glob import glob
from pathlib import Path

import pytest
from PIL import Image
from support.command_line import headwater
from support.tiny import tiny_pipeline

from headwater import Denoiser
from headwater.scenes.dataset import pictures
from headwater.viewer import serve

peft = pytest.importorskip("peft")

PAGE = Path(__file__).parents[2] / "docs" / "start" / "lora.md"
COMMANDS = re.findall(r"^ {4}headwater (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with what the page has names for, as a trainer leaves it."""
    folder = tmp_path / "FOLDER"
    folder.mkdir()
    for row, scene in enumerate(pictures()[:5]):
        scene.draw().resize((16, 16)).save(folder / f"{row}.png")
        caption = "a photo of sks dog in a park" if row < 3 else scene.caption
        (folder / f"{row}.txt").write_text(caption)
    pictures()[9].draw().resize((16, 16)).save(tmp_path / "odd.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 8))
    mask.save(tmp_path / "fingers.png")
    pipe = Denoiser.load(tiny_pipeline(tmp_path / "MODEL")).pipe
    pipe.unet.add_adapter(
        peft.LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
    )
    state = peft.get_peft_model_state_dict(pipe.unet)
    pipe.save_lora_weights(tmp_path / "LORA", unet_lora_layers=state)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guide_can_be_followed(here, monkeypatch):
    opened = []
    monkeypatch.setattr(serve, "require_page", lambda *given: None)
    monkeypatch.setattr(serve, "serve", lambda sessions, *given: opened.append(list(sessions)))
    name, said = "NAME", {}
    for command in COMMANDS:
        words = [word.replace("NAME", name) for word in shlex.split(command)]
        words = [each for word in words for each in sorted(glob(word)) or [word]]  # noqa: PTH207
        done = headwater(*words)
        assert done.code == 0, (command, done.err)
        said[command] = done
        if words[0] == "why":
            name = done.err.partition("index ")[2].partition(",")[0].rpartition("/")[2]
            assert re.fullmatch(r"\w{12}", name) and "which is built once" in done.err
    assert [each.split()[0] for each in said] == [
        "inspect", "why", "view", "image", "concept", "index", "image", "concept"
    ]  # fmt: skip
    inspected, asked, _, part, surer, built, faint, lost = (each.out for each in said.values())
    assert re.search(r"--parameters lora +\d+ numbers in 32 layers, taken by default", inspected)
    assert "captions                of all images" in inspected and "cut off" in inspected
    assert "the picture of 'a photo of sks dog in a park'" in asked and "'sks dog' in" in asked
    assert "'sks dog' has no alternatives here" in asked  # as the page says
    assert opened == [[name]]
    assert "the outlined part of the picture" in part and "ekfac-presence, asked by" in surer
    assert "in faint-index" in built and "gradient-dot, asked of the picture" in faint
    assert "ekfac, asked by the loss on 3 training images that name it" in lost
    for report in re.findall("Report: (.*)", asked + part + surer + faint + lost):
        assert Path(report).is_file()
