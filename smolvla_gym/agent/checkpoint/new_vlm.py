"""The configuration, tokenizer and processor of a vision-language model that needs no hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SPECIAL_TOKENS: Final = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
}
# SmolVLM's processor and SmolVLA itself look these up as attributes of the tokenizer.
_IMAGE_TOKENS: Final = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    "video_token": "<video>",
}


@dataclass(frozen=True)
class VLMGeometry:
    """The sizes of a SmolVLM.

    Attributes:
        width: Of the language model's hidden states.
        ffn: Of its feed-forward layers.
        layers: How many it has.
        heads: Attention heads.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        positions: Longest sequence.
        embeddings: Rows of its embedding; None: as many as the tokenizer needs.
        vision_width: Of the vision tower's hidden states.
        vision_ffn: Of its feed-forward layers.
        vision_layers: How many it has.
        vision_heads: Attention heads.
        image_size: Side in px of the square pictures that it takes.
        patch: Side in px of a patch.
        scale_factor: Side in patches of what becomes one token.
        activation: Of the vision tower.
    """

    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    embeddings: int | None
    vision_width: int
    vision_ffn: int
    vision_layers: int
    vision_heads: int
    image_size: int
    patch: int
    scale_factor: int
    activation: str


def save_vlm(directory: Path, geometry: VLMGeometry, sentences: Sequence[str], vocabulary: int) -> None:
    """Writes the configuration, tokenizer and processor of a vision-language model.

    Args:
        directory: Where to.
        geometry: Its sizes.
        sentences: What the tokenizer should spell with few tokens.
        vocabulary: Size of the tokenizer's vocabulary.
    """
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    tokenizer = _train_tokenizer(sentences, vocabulary)
    text = {
        "model_type": "llama",
        "hidden_size": geometry.width,
        "intermediate_size": geometry.ffn,
        "num_hidden_layers": geometry.layers,
        "num_attention_heads": geometry.heads,
        "num_key_value_heads": geometry.kv_heads,
        "head_dim": geometry.head_dim,
        "max_position_embeddings": geometry.positions,
        "vocab_size": geometry.embeddings or len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": geometry.vision_width,
        "intermediate_size": geometry.vision_ffn,
        "num_hidden_layers": geometry.vision_layers,
        "num_attention_heads": geometry.vision_heads,
        "image_size": geometry.image_size,
        "patch_size": geometry.patch,
        "hidden_act": geometry.activation,
    }
    config = SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=geometry.scale_factor,
        image_token_id=tokenizer.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # SmolVLA freezes the head by its name and does not find it when it is tied.
        tie_word_embeddings=False,
    )
    size = {"longest_edge": geometry.image_size}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer,
        SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=(geometry.image_size // geometry.patch // geometry.scale_factor) ** 2,
    )
    config.save_pretrained(directory)
    processor.save_pretrained(directory)


def _train_tokenizer(sentences: Sequence[str], vocabulary: int) -> Any:
    """Trains a byte-level BPE: any text can be spelt, the given sentences in few tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-untyped]
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[*_SPECIAL_TOKENS.values(), *_IMAGE_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((sentence + "\n" for sentence in sentences), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        padding_side="right",
        extra_special_tokens=dict(_IMAGE_TOKENS),
        **_SPECIAL_TOKENS,
    )
