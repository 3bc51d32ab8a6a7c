"""How much memory does an index by adapters of a large transformer take, beside the model itself?

A Flux-shaped transformer of 111 million random numbers with a LoRA of all queries, keys and values,
indexed by `headwater index --parameters lora --recompute --batch-size 1`; encoders and pictures are
small, and the prompt has Flux's 512 tokens. Peak memory of that process, above what it holds with
everything imported, over the bytes of the model's weights. Fails above 2x. CPU, Linux.

    export OMP_NUM_THREADS=1
    python benchmarks/memory_adapters.py [--images 4] [--dtype bfloat16] [--keep] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

BOUND = 2.0
HEADS, WIDTH = 10, 64  # of the transformer
IMPORTS = "import headwater.cli.main, headwater.index.build, diffusers, transformers, peft; "
IMPORTS += "from diffusers import FluxPipeline"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--method", default="concept-trak-unguided")
    parser.add_argument("--keep", action="store_true", help="activations: without --recompute")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        numbers = save_model(folder)
        model = numbers * (4 if given.dtype == "float32" else 2) / 1e6
        base = peak(sys.executable, "-c", IMPORTS)
        command = [
            "headwater", "index", folder / "model", "scenes", folder / "index", "--lora",
            folder / "lora", "--parameters", "lora", "--resolution", "64", "--timesteps", "2",
            "--method", given.method,
            "--limit", given.images, "--dtype", given.dtype, "--batch-size", "1",
            *([] if given.keep else ["--recompute"]),
        ]  # fmt: skip
        above = peak(sys.executable, "-m", *command) - base
    facts = {"numbers": numbers, "model (MB)": model, "above imports (MB)": above}
    facts["ratio"] = above / model
    print(json.dumps(facts) if given.json else "  ".join(f"{k} {v:,.4g}" for k, v in facts.items()))
    return int(facts["ratio"] > BOUND)


def peak(*command: object) -> float:
    """Peak resident memory of a process, in MB."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([str(part) for part in command], env=env)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return usage.ru_maxrss / 1e3


def save_model(folder: Path) -> int:
    """A pipeline and adapters of it; how many numbers its parts have."""
    import peft
    import torch
    from peft.utils import get_peft_model_state_dict

    from headwater.scenes.pipeline import MAX_TOKENS, new_tokenizer

    diffusers: Any = import_module("diffusers")
    transformers: Any = import_module("transformers")
    torch.manual_seed(0)
    tokenizer, small = new_tokenizer(), 64
    parts = {
        "transformer": diffusers.FluxTransformer2DModel(
            in_channels=16, num_layers=4, num_single_layers=8, attention_head_dim=WIDTH,
            num_attention_heads=HEADS, joint_attention_dim=small, pooled_projection_dim=small,
            guidance_embeds=True, axes_dims_rope=(16, 24, 24),
        ),
        "vae": diffusers.AutoencoderKL(
            latent_channels=4, block_out_channels=(8, 8, 8), layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
        ),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=small, intermediate_size=small,
            num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )),
        "text_encoder_2": transformers.T5EncoderModel(transformers.T5Config(
            vocab_size=len(tokenizer), d_model=small, d_ff=small, num_layers=1, num_heads=2,
        )),
    }  # fmt: skip
    numbers = sum(p.numel() for part in parts.values() for p in part.parameters())
    pipe = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        **parts,
    )
    pipe.save_pretrained(folder / "model")
    wanted = peft.LoraConfig(r=16, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(wanted)
    diffusers.FluxPipeline.save_lora_weights(
        folder / "lora", get_peft_model_state_dict(pipe.transformer)
    )
    return numbers


if __name__ == "__main__":
    sys.exit(main())
