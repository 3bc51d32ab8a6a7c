"""The smallest language models that read prompts, and their tokenizers with a chat template."""

from functools import cache

from headwater.scenes.vocabulary import ATTRIBUTES

WIDTH = 16
LIMIT = 64  # tokens of a prompt, in its template

# What a chat says around a user's words, as Qwen's template has it.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Words that Qwen-Image and Lumina 2 say before a prompt, and those of the scenes' captions.
_WORDS = (
    "You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts. <Prompt Start>\n"
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:\nuser\nassistant\na an on with picture "
)


@cache
def _pieces():
    """(vocabulary, merges) of byte pairs; the trainer breaks ties anew in each run."""
    import json

    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    trainee = Tokenizer(BPE())
    trainee.pre_tokenizer = ByteLevel(add_prefix_space=False)
    letters = ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=10_000, min_frequency=1, initial_alphabet=letters, show_progress=False
    )
    words = [word for values in ATTRIBUTES.values() for word in values]
    trainee.train_from_iterator([_WORDS + " ".join(words), *words, " a"], trainer)
    model = json.loads(trainee.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def chat_tokenizer():
    """As Qwen's."""
    from transformers import Qwen2Tokenizer

    vocabulary, merges = _pieces()
    return Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        model_max_length=LIMIT,
        chat_template=TEMPLATE,
        extra_special_tokens=_MARKS[1:],
    )


def bos_tokenizer():
    """One that says itself where a text begins, and has no template, as Gemma's."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = chat_tokenizer()
    begin, end = _MARKS[1], _MARKS[0]
    backend = tokenizer.backend_tokenizer
    number = tokenizer.convert_tokens_to_ids(begin)
    backend.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, number)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        pad_token=end,
        padding_side="right",
        model_max_length=LIMIT,
    )


# Of a language model of two layers.
_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def qwen3(tokenizer, **changes):
    """A Qwen3."""
    from transformers import Qwen3Config, Qwen3Model

    sizes = {**_SIZES, "head_dim": 8, **changes}
    return _apart(Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), **sizes)))


def gemma2(tokenizer):
    """A Gemma 2."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(vocab_size=len(tokenizer), head_dim=8, query_pre_attn_scalar=8, **_SIZES)
    return _apart(Gemma2Model(config))


def qwen_vl(tokenizer):
    """A Qwen2.5-VL, with as little of an eye as can be."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = {
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
        **_SIZES,
    }
    eye = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(text_config=words, vision_config=eye)
    return _apart(Qwen2_5_VLForConditionalGeneration(config))


def _apart(encoder):
    """With embeddings that differ enough for captions to do so."""
    import torch

    with torch.no_grad():
        encoder.get_input_embeddings().weight.normal_()
    return encoder
