"""The smallest CLIP; random, and its embeddings by the layers of transformers' model."""

import numpy as np
import torch

from headwater.scenes.pipeline import MAX_TOKENS, new_tokenizer


def tiny_clip(folder, seed=0):
    """Save a random CLIPModel of 16x16 pictures and 12 numbers, with the scenes' tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    sizes = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=12,
    )  # fmt: skip
    text = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = CLIPConfig(
        text_config=sizes | text,
        vision_config=sizes | dict(image_size=16, patch_size=4),
        projection_dim=12,
    )
    model = CLIPModel(config)
    with torch.no_grad():  # it starts so close to zero that all would look alike
        for weight in model.parameters():
            weight.mul_(10) if weight.ndim > 1 else weight
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(source):
    from transformers import CLIPModel, CLIPTokenizer

    return CLIPModel.from_pretrained(source).eval(), CLIPTokenizer.from_pretrained(source)


def direct(source, pictures, texts, mean=None, std=None):
    """(image, text embeddings) by the layers of transformers' model, one after the other."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    model, tokenizer = loaded(source)
    pixels = np.stack(
        [np.asarray(picture.convert("RGB"), np.float64) / 255 for picture in pictures]
    )
    pixels = (pixels - (mean or OPENAI_CLIP_MEAN)) / (std or OPENAI_CLIP_STD)
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        images = model.visual_projection(model.vision_model(pixels).pooler_output)
        rows = []
        for text in texts:  # alone, so that nothing is padded
            states = model.text_model(**tokenizer(text, return_tensors="pt")).last_hidden_state
            rows.append(model.text_projection(states[:, -1]))  # of the end of the text
    return images, torch.cat(rows)
