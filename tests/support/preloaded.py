"""What processes of tests need, imported once before they are forked: it takes many seconds."""

from headwater.runtime.console import quiet_libraries

quiet_libraries()  # they look when they are imported

import diffusers.pipelines.pipeline_utils  # noqa: E402, F401
import transformers.modeling_utils  # noqa: E402, F401
