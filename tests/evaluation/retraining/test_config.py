"""Configurations of models: files, and what is wrong with them."""

import json

import pytest
from support.studies import unconditional

from headwater.errors import ModelError
from headwater.evaluation.retraining.config import read_config


def test_configurations_are_files(tmp_path):
    path = tmp_path / "model.json"
    config = unconditional(flip=True)
    path.write_text(json.dumps(config.facts()))
    assert json.dumps(read_config(path).facts()) == path.read_text()
    for text, said in {
        "{": "Expecting property name",
        "{}": "it lacks 'phases'",
        "[]": "list indices must be integers",
        '{"phases": []}': "phases is empty",
        '{"phases": [{"steps": 1}], "colour": 1}': "colour",
        '{"phases": [{"steps": 1}], "unet": {}}': "what was `unet` is called `network`",
        '{"phases": [{"step": 1}]}': "step",
        '{"phases": [{"steps": 1}], "text_encoder": "new"}': "text_encoder is 'new'",
        '{"phases": [{"steps": 1}], "base": "", "text_encoder": "continue"}': "there is no text",
        '{"phases": [{"steps": 1, "weight": "shape-first"}]}': "weight is 'shape-first'",
        '{"phases": [{"steps": 0}]}': "steps is 0, and not a whole number from 1 up",
        '{"phases": [{"steps": 2, "batch": true, "stop": 9}]}': "stop is 9, after the last of 2",
    }.items():
        path.write_text(text)
        with pytest.raises(ModelError, match=f"is no configuration of a model: .*{said}"):
            read_config(path)
