"""A diffusion model made this; which training images taught it that?

Heavy modules load when a public name is first used, so `import headwater` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.attribution.answer.result import Attribution, Ranked
    from headwater.attribution.attributor import Options
    from headwater.attribution.session import Session
    from headwater.data.memory import from_images
    from headwater.data.sources import load_dataset
    from headwater.data.tables.hugging_face import from_hf_dataset
    from headwater.data.training_set import Sample, TrainingSet
    from headwater.index.build import build_index, build_shard
    from headwater.index.index import Index
    from headwater.index.published import import_rows
    from headwater.methods.table import METHODS
    from headwater.models.denoiser import Denoiser
    from headwater.queries.concept import Concept, preset
    from headwater.queries.feature import Feature
    from headwater.queries.image import Image
    from headwater.queries.local.local_concept import Local, whole_picture
    from headwater.queries.outputs.output import Contribution, Loss
    from headwater.queries.pictures.grouped import GroupedImage
    from headwater.queries.preference import Preference, load_pairs
    from headwater.queries.reward import Reward, Scorer
    from headwater.quick.audit import audit
    from headwater.quick.questions import why
    from headwater.quick.sessions import session_of
    from headwater.recording.recorder import Recorder
    from headwater.report.concept_trak import write_concept_trak
    from headwater.report.export import write_answers
    from headwater.report.journeys.trajectory import journey_of, write_journey
    from headwater.runtime.executor import Executor

__version__ = "0.1.0"

# Public name -> where it lives.
_HOME = {
    "Denoiser": "models.denoiser",
    "TrainingSet": "data.training_set",
    "Sample": "data.training_set",
    "load_dataset": "data.sources",
    "from_images": "data.memory",
    "from_hf_dataset": "data.tables.hugging_face",
    "build_index": "index.build",
    "build_shard": "index.build",
    "import_rows": "index.published",
    "Index": "index.index",
    "Session": "attribution.session",
    "Executor": "runtime.executor",
    "Concept": "queries.concept",
    "preset": "queries.concept",
    "Feature": "queries.feature",
    "GroupedImage": "queries.pictures.grouped",
    "Image": "queries.image",
    "Contribution": "queries.outputs.output",
    "Loss": "queries.outputs.output",
    "Local": "queries.local.local_concept",
    "whole_picture": "queries.local.local_concept",
    "Reward": "queries.reward",
    "Scorer": "queries.reward",
    "Preference": "queries.preference",
    "load_pairs": "queries.preference",
    "session_of": "quick.sessions",
    "why": "quick.questions",
    "audit": "quick.audit",
    "Options": "attribution.attributor",
    "Attribution": "attribution.answer.result",
    "Ranked": "attribution.answer.result",
    "write_answers": "report.export",
    "write_concept_trak": "report.concept_trak",
    "write_journey": "report.journeys.trajectory",
    "journey_of": "report.journeys.trajectory",
    "Recorder": "recording.recorder",
    "METHODS": "methods.table",
}

__all__ = [
    "Denoiser",
    "TrainingSet",
    "Sample",
    "load_dataset",
    "from_images",
    "from_hf_dataset",
    "build_index",
    "build_shard",
    "import_rows",
    "Index",
    "Session",
    "Executor",
    "Concept",
    "preset",
    "Feature",
    "GroupedImage",
    "Image",
    "Contribution",
    "Loss",
    "Local",
    "whole_picture",
    "Reward",
    "Scorer",
    "Preference",
    "load_pairs",
    "session_of",
    "why",
    "audit",
    "Options",
    "Attribution",
    "Ranked",
    "write_answers",
    "write_concept_trak",
    "write_journey",
    "journey_of",
    "Recorder",
    "METHODS",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"headwater.{_HOME[name]}"), name)
    raise AttributeError(f"module 'headwater' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
