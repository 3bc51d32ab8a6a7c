"""What a reader of a counterfactual's tables is told."""

from dataclasses import replace

from headwater import load_dataset
from headwater.evaluation.counterfactual.plan import RemovalPlan
from headwater.evaluation.counterfactual.report import notes
from headwater.evaluation.ground_truth.classifiers import ScenesClassifier
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.studies.method_scores import QuestionOptions


def test_of_which_parameters_gradients_are(tmp_path):
    data, config = load_dataset("scenes").first(20), ModelConfig((Phase(1),))
    methods = ("concept-trak", "concept-d-trak", "random")
    plan = RemovalPlan(tmp_path, config, data, [], ScenesClassifier(), methods, (3,))

    def said(plan):
        return [note for note in notes(plan, 2) if note.startswith("gradients of")]

    (usual_of_all,) = said(plan)
    assert usual_of_all.startswith(
        "gradients of concept-trak, concept-d-trak are of what suits the model"
    )
    given, usual = said(replace(plan, recipes={"concept-trak": {"parameters": "all"}}))
    assert given == "gradients of concept-trak are of all"
    assert usual.startswith("gradients of concept-d-trak are of what suits the model")
    assert said(replace(plan, methods=("random",))) == []
    outputs = replace(plan, options=QuestionOptions(ask="loss"), methods=("presence", "trak"))
    assert "trak: asked for the loss" in notes(outputs, 2)
    four = replace(plan, recipes={"concept-trak": {"draws": 4}})
    assert "index of concept-trak: draws 4" in notes(four, 2) and said(four) == [usual_of_all]
