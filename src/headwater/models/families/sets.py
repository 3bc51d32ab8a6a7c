"""Parameter sets of the families: a name -> a regular expression of module names.

Nothing is imported here, so that a command line can list the names in a moment.
"""

from __future__ import annotations

# UNet2DModel has its self-attention bare.
_ATTENTION = r"\.attn[12]\.|\.attentions\.\d+\.(to_[qkv]|to_out|group_norm)(\.|$)"

# Of UNet2DConditionModel and UNet2DModel: by diffusers' names, and by meaning, as other families.
UNET = {
    "attn2": r"\.attn2\.",
    "attn2-kv": r"\.attn2\.to_[kv](\.|$)",
    "attn2-qo": r"\.attn2\.to_(q|out)(\.|$)",  # no words but in to_out's input
    "attn": _ATTENTION,
    "up_blocks": r"^up_blocks\.",
    "words": r"\.attn2\.to_[kv](\.|$)",
    "attention": _ATTENTION,
}
# Of transformers in which words and picture attend to each other (MMDiT). What is called `attn2`
# there, in Stable Diffusion 3.5 medium, is a second attention of the picture to itself.
JOINT = {
    "words": r"\.add_[kv]_proj(\.|$)",
    "attention": r"\.attn2?\.",
}
# Of transformers with blocks for words alone, before those that read words and picture as one.
REFINED = {
    "words": r"^context_refiner\.",
    "attention": r"\.(attn|attention)\.",
}
# Of transformers whose picture attends to itself, and then to words.
CROSS = {
    "words": r"\.attn2\.to_[kv](\.|$)",
    "attention": r"\.attn[12]\.",
}
# Of transformers that read a class where they scale and shift what is normed.
CLASSES = {
    "words": r"\.norm1\.(linear|emb\.class_embedder)(\.|$)",
    "attention": r"\.attn1\.",
}

# Of all families, each once.
NAMES = tuple(dict.fromkeys([*UNET, *JOINT, *REFINED, *CROSS, *CLASSES]))
