"""Make the configuration, tokenizer and processor of a vision-language model (VLM) without the hub."""

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
    """Sizes of a SmolVLM.

    Attributes:
        width: Width of the language model's hidden states.
        ffn: Width of its feed-forward layers.
        layers: Number of its layers.
        heads: Number of its attention heads.
        kv_heads: Number of its heads of keys and values.
        head_dim: Width of a head.
        positions: Longest sequence.
        embeddings: Rows of the embedding; None: as many as the tokenizer needs.
        vision_width: Width of the vision tower's hidden states.
        vision_ffn: Width of its feed-forward layers.
        vision_layers: Number of its layers.
        vision_heads: Number of its attention heads.
        image_size: Side in px of its square input images.
        patch: Side in px of a patch.
        scale_factor: Side in patches of the square that becomes one token.
        activation: Activation function of the vision tower.
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
    """Write the configuration, tokenizer and processor of a vision-language model.

    Args:
        directory: Folder of the files.
        geometry: Sizes of the model.
        sentences: Sentences from which the tokenizer is trained, so that they take few tokens.
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
        # SmolVLA freezes the head by its name, which a tied head does not have.
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
    """Train a byte-level BPE, which encodes any text, and the given sentences in few tokens."""
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
