"""Check a VLM's tokenizer files: special tokens, sizes and steps, before transformers reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from smolvla_gym.utils import schema

_MAX_ADDED: Final = 16
"""Most tokens that a tokenizer may add to a text."""

_PIECE: Final = schema.text(1000)


def _special_token(value: Any) -> Any:
    """Check a special token: its text, or an object of transformers' ``AddedToken``."""
    if isinstance(value, dict):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), schema.flag)
        return schema.check_fields(
            value, {"__type": schema.one_of("AddedToken"), "content": _PIECE, **flags}, ("content",)
        )
    return _PIECE(value)


def _special_tokens(value: Any) -> Any:
    if isinstance(value, dict):
        return schema.mapping_of(schema.text(100), _special_token, 1000)(value)
    return list(schema.list_of(_special_token, 0, 1000)(value))


_TOKENIZER_FIELDS: Final[Mapping[str, schema.Check]] = {
    "tokenizer_class": schema.one_of(
        "TokenizersBackend", "PreTrainedTokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"
    ),
    "backend": schema.one_of("tokenizers"),
    "added_tokens_decoder": schema.mapping_of(schema.text(20), _special_token, 1000),
    "additional_special_tokens": schema.optional(_special_tokens),
    "extra_special_tokens": schema.optional(_special_tokens),
    "model_max_length": schema.optional(schema.number(1, 1e40)),
    "padding_side": schema.one_of("right", "left"),
    "truncation_side": schema.one_of("right", "left"),
    "add_prefix_space": schema.optional(schema.flag),
    "clean_up_tokenization_spaces": schema.optional(schema.flag),
    "legacy": schema.optional(schema.flag),
}

_NORMALIZERS: Final = ("Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents")
_PRE_TOKENIZERS: Final = (
    "Sequence",
    "ByteLevel",
    "Digits",
    "Whitespace",
    "WhitespaceSplit",
    "Punctuation",
    "Metaspace",
)


def check_tokenizer(content: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return a tokenizer whose tokens have rows in the embedding, and that cannot lengthen a text without limit.

    Args:
        content: The content of ``tokenizer.json``.
        rows: Number of rows of the embedding.

    Raises:
        ValueError: The tokenizer is not allowed.
    """
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise ValueError("model.vocab is missing")
    if model.get("dropout"):
        raise ValueError("its model has a dropout, so the tokens of a text would be random")
    vocabulary = model["vocab"]
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        raise ValueError("added_tokens is not a list")
    numbers += [token.get("id") if isinstance(token, dict) else None for token in added]
    if any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < rows for n in numbers):
        raise ValueError(f"it has tokens beyond the {rows} rows of the embedding (vocab_size of config.json)")
    _check_post_processor(content.get("post_processor"), rows)
    for name, allowed in (("normalizer", _NORMALIZERS), ("pre_tokenizer", _PRE_TOKENIZERS)):
        _check_kinds(name, content.get(name), allowed)
    # transformers sets both for each text; a fixed padding could allocate any amount of memory.
    return {**content, "truncation": None, "padding": None}


def _check_post_processor(value: Any, rows: int) -> None:
    """Refuse tokens at the ends of a text that have no row in the embedding, or too many of them."""
    if value is None:
        return
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "Sequence" and isinstance(value.get("processors"), list):
        for step in value["processors"]:
            _check_post_processor(step, rows)
        return
    if kind not in ("ByteLevel", "TemplateProcessing"):
        raise ValueError(f"its post_processor is {schema.format_value(kind)}; expected ByteLevel or TemplateProcessing")
    if kind == "TemplateProcessing":
        specials, pieces = value.get("special_tokens"), value.get("single")
        if not isinstance(specials, dict) or not isinstance(pieces, list) or len(pieces) > _MAX_ADDED:
            raise ValueError(f"its post_processor has no template of at most {_MAX_ADDED} pieces")
        ids = [special.get("ids") if isinstance(special, dict) else None for special in specials.values()]
        for each in ids:
            schema.check_field(
                "ids of its post_processor", each, schema.list_of(schema.whole(0, rows - 1), 0, _MAX_ADDED)
            )


def _check_kinds(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse steps with custom patterns and replacements, whose time and memory have no limit."""
    if value is None:
        return
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in allowed:
        raise ValueError(f"its {name} is {schema.format_value(kind)}; expected one of {', '.join(allowed)}")
    for inner in ("normalizers", "pretokenizers"):
        steps = value.get(inner)
        if isinstance(steps, list):
            for step in steps:
                _check_kinds(name, step, allowed)


def check_tokenizer_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked fields of ``tokenizer_config.json``.

    Raises:
        ValueError: A value is not allowed.
    """
    checked = schema.check_fields(content, _TOKENIZER_FIELDS, others=True)
    for name, value in content.items():
        if name.endswith("_token") and isinstance(value, str | dict):
            checked[name] = schema.check_field(name, value, _special_token)
    checked.setdefault("tokenizer_class", "TokenizersBackend")
    if isinstance(checked.get("model_max_length"), float):
        checked["model_max_length"] = int(checked["model_max_length"])
    return checked
