"""A diffusion model made this; which training images taught it that?

Heavy modules load when a public name is first used, so `import headwater` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.attribution.result import Attribution
    from headwater.data.memory import from_images
    from headwater.data.sources import load_dataset
    from headwater.data.tables.hugging_face import from_hf_dataset
    from headwater.data.training_set import TrainingSet
    from headwater.index.build import build_index
    from headwater.index.index import Index
    from headwater.methods import METHODS
    from headwater.models.denoiser import Denoiser
    from headwater.queries.concept import Concept

__version__ = "0.1.0"

_HOME = {
    "Denoiser": "models.denoiser",
    "TrainingSet": "data.training_set",
    "load_dataset": "data.sources",
    "from_images": "data.memory",
    "from_hf_dataset": "data.tables.hugging_face",
    "build_index": "index.build",
    "Index": "index.index",
    "Concept": "queries.concept",
    "Attribution": "attribution.result",
    "METHODS": "methods",
}

__all__ = [
    "Denoiser",
    "TrainingSet",
    "load_dataset",
    "from_images",
    "from_hf_dataset",
    "build_index",
    "Index",
    "Concept",
    "Attribution",
    "METHODS",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"headwater.{_HOME[name]}"), name)
    raise AttributeError(f"module 'headwater' has no attribute {name!r}")
