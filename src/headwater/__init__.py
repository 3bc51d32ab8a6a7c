"""A diffusion model made this; which training images taught it that?

Heavy modules load when a public name is first used, so `import headwater` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.attribution import Attribution
    from headwater.building import build_index
    from headwater.dataset import from_hf_dataset, from_images, load_dataset
    from headwater.denoiser import Denoiser
    from headwater.index import Index
    from headwater.methods import METHODS
    from headwater.queries import Concept
    from headwater.training_set import TrainingSet

__version__ = "0.1.0"

_HOME = {
    "Denoiser": "denoiser",
    "TrainingSet": "training_set",
    "load_dataset": "dataset",
    "from_images": "dataset",
    "from_hf_dataset": "dataset",
    "build_index": "building",
    "Index": "index",
    "Concept": "queries",
    "Attribution": "attribution",
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
