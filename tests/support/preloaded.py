"""What processes of tests need, imported once before they are forked: it takes many seconds."""

from headwater.runtime.console import quiet_libraries

quiet_libraries()  # they look when they are imported

import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion  # noqa: E402, F401
import pandas  # noqa: E402, F401 - pyarrow does, at its first table
import transformers.models.clip.modeling_clip  # noqa: E402, F401

import headwater.attribution.session  # noqa: E402
import headwater.index.build  # noqa: E402
import headwater.report.export  # noqa: E402, F401
