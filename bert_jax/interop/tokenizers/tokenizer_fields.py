"""The fields that transformers and `tokenizers` write for a tokenizer, and what each does.

A field that changes the ids of a text is read (`huggingface_tokenizer.py`, `library_tokenizer.py`,
`added_tokens.py`) or may have one value only; a field that does not is in a table here, with the
reason; any other field is refused by name, unless it is off (null, false, empty).
"""

import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from bert_jax.errors import UserError
from bert_jax.text.library_files import check_truncation
from bert_jax.text.vocabulary import SPECIAL_PIECES_OF_WORDPIECE

# Classes of transformers that are BERT's tokenizer under another name.
BERT_CLASSES = frozenset(
    "BertTokenizer ConvBertTokenizer DistilBertTokenizer DPRContextEncoderTokenizer"
    " DPRQuestionEncoderTokenizer DPRReaderTokenizer ElectraTokenizer LayoutLMTokenizer"
    " LxmertTokenizer MobileBertTokenizer SqueezeBertTokenizer".split()
)
# Classes of byte-level BPE and of Unigram models.
LIBRARY_CLASSES = frozenset(
    "BartTokenizer CamembertTokenizer GPT2Tokenizer LongformerTokenizer RobertaTokenizer"
    " XLMRobertaTokenizer".split()
)
# Classes that take tokenizer.json as it is.
GENERIC_CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})

# Fields of tokenizer_config.json that other code here reads; names that end in "_token" are too.
_READ = frozenset(
    "do_lower_case strip_accents tokenize_chinese_chars tokenizer_class model_max_length max_len"
    " model_input_names added_tokens_decoder additional_special_tokens extra_special_tokens"
    " model_specific_special_tokens".split()
)
# Fields of tokenizer_config.json that change ids, and their values that are implemented; null is.
_ONLY: dict[str, tuple[Any, ...]] = {
    "add_bos_token": (False,),
    "add_eos_token": (False,),
    "add_prefix_space": (False,),
    "clean_text": (True,),
    "do_basic_tokenize": (True,),
    "do_subword_tokenize": (True,),
    "do_word_tokenize": (True,),
    "fast_tokenizer_files": (["tokenizer.json"],),
    "init_inputs": ([],),
    "max_input_chars_per_word": (100,),
    "never_split": ([],),
    "split_special_tokens": (False,),
    "subword_tokenizer_type": ("wordpiece",),
    "truncation_side": ("right",),
    "word_tokenizer_type": ("basic",),
    "wordpieces_prefix": ("##",),
}
# Those of them that the classes of byte-level BPE and Unigram models do not have.
OF_WORDPIECE = frozenset(
    "clean_text do_basic_tokenize do_subword_tokenize do_word_tokenize max_input_chars_per_word"
    " never_split subword_tokenizer_type word_tokenizer_type wordpieces_prefix".split()
)
# Those that `tokenizer.json` decides where there is one.
OF_TEMPLATE = frozenset({"add_bos_token", "add_eos_token"})
# Fields of tokenizer_config.json that do not change the ids of a text, and the reason.
HARMLESS = {
    "_commit_hash": "where the file is from",
    "backend": "the library that wrote the file",
    "chat_control_tokens": "for chats",
    "chat_template": "for chats",
    "clean_up_tokenization_spaces": "for decoding",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": "for decoding",
    "device_map": "for running",
    "errors": "for decoding",
    "from_slow": "how the file was made",
    "full_tokenizer_file": "a path on the writer's machine",
    "is_local": "where the file is from",
    "legacy": "of tokenizers with SentencePiece",
    "local_files_only": "where the file is from",
    "model_type": "config.json decides",
    "max_length": "cuts on request alone; data.length and model_max_length do it here",
    "name_or_path": "where the file is from",
    "pad_to_multiple_of": "padding is no part of a row here",
    "pad_token_type_id": "padding is no part of a row here",
    "padding": "padding is no part of a row here",
    "padding_side": "padding is no part of a row here",
    "processor_class": "the class of a pipeline",
    "response_template": "for chats",
    "slow_tokenizer_class": "how the file was made",
    "special_tokens_map_file": "a path on the writer's machine",
    "stride": "of texts that are cut; data.stride here",
    "tokenizer_file": "a path on the writer's machine",
    "transformers_version": "the library that wrote the file",
    "trim_offsets": "of byte-level BPE",
    "truncation": "cuts on request alone; data.length does it here",
    "truncation_strategy": "cuts on request alone; data.length does it here",
    "use_fast": "which of two equal classes reads the file",
    "verbose": "for messages",
    "vocab_file": "a path on the writer's machine",
    "vocab_size": "the file of the vocabulary decides",
}
# Parts of a tokenizer.json, and the reason for those that change no id.
_READ_PARTS = frozenset("added_tokens model normalizer pre_tokenizer post_processor".split())
HARMLESS_PARTS = {
    "decoder": "for decoding",
    "padding": "padding is no part of a row here",
    "truncation": "its side is read; transformers cuts on request alone, here data.length does",
    "version": "of the format",
}
_ONLY_OF_MODEL = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}
# Files of other tokenizers: beside a vocab.txt whose class no file names, they may be the model's.
_FOREIGN_FILES = (
    "bpe.codes",
    "entity_vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "vocab.json",
)


def refusal(path: pathlib.Path, what: str) -> UserError:
    """Returns the error for a file of a tokenizer that is not BERT's."""
    return UserError(
        f"{path}: {what} is not BERT's WordPiece: give the tokenizer that the model was trained"
        " with as --tokenizer"
    )


def as_written(value: Any) -> str:
    """Returns a value as the file has it, cut if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_class(name: str | None, path: pathlib.Path) -> None:
    """Checks `tokenizer_class`, of tokenizer_config.json or of config.json.

    Raises:
      UserError: if it is the class of another tokenizer.
    """
    if name is None or name in GENERIC_CLASSES:
        return
    if name.removesuffix("Fast") not in BERT_CLASSES:
        raise refusal(path, f"tokenizer_class={as_written(name)}")


def check_class_of_library(name: str | None, config: Mapping[str, Any], path: pathlib.Path) -> None:
    """Checks `tokenizer_class`, and that it is no program of its own, for a tokenizer.json.

    Args:
      name: of the class; None if no file names one.
      config: the fields of tokenizer_config.json.
      path: of the tokenizer, for errors.

    Raises:
      UserError: if it is the class of a tokenizer that is not implemented.
    """
    if name is not None and name not in GENERIC_CLASSES:
        if name.removesuffix("Fast") not in LIBRARY_CLASSES:
            raise UserError(
                f"{path}: tokenizer_class={as_written(name)} is not implemented for this kind of"
                f" tokenizer: only {', '.join(sorted(LIBRARY_CLASSES | GENERIC_CLASSES))} are"
            )
    auto_map = config.get("auto_map") or {}
    if auto_map.get("AutoTokenizer"):
        raise UserError(
            f"{path}: auto_map={as_written(auto_map)} is a program of its own, which is never run:"
            " save the tokenizer once as a plain tokenizer.json"
        )


def is_generic(name: str | None) -> bool:
    """Returns True for a class that takes tokenizer.json as it is."""
    return name in GENERIC_CLASSES


def check_config(
    values: Mapping[str, Any], path: pathlib.Path, *, others: Collection[str] = ()
) -> None:
    """Checks the fields of a tokenizer_config.json.

    Args:
      values: of the file.
      path: of the file, for errors.
      others: names of fields that the caller reads, or that its kind of tokenizer does not have.

    Raises:
      UserError: for the first field that changes ids and that nothing here follows.
    """
    auto_map = values.get("auto_map") or {}
    if auto_map.get("AutoTokenizer"):
        raise refusal(path, f"auto_map={as_written(auto_map)} (a program of its own)")
    special = list(SPECIAL_PIECES_OF_WORDPIECE.values())  # a value may have no hash
    for name, value in values.items():
        if value is None or name in _READ or name in HARMLESS or name == "auto_map":
            continue
        if name in others:
            continue
        if (
            name == "never_split"
            and isinstance(value, list)
            and all(each in special for each in value)
        ):
            continue
        if name in _ONLY:
            if value not in _ONLY[name]:
                raise UserError(
                    f"{path}: {name}={as_written(value)} is not implemented: only"
                    f" {as_written(_ONLY[name][0])} is; remove the field if the model was trained"
                    " without it"
                )
        elif value and not (name.endswith("_token") and isinstance(value, (str, dict))):
            raise UserError(
                f"{path}: {name}={as_written(value)} is not known: remove the field if it does not"
                " change the ids of a text"
            )


def check_fast(values: Mapping[str, Any], special: Mapping[str, int], path: pathlib.Path) -> None:
    """Checks the parts of a tokenizer.json, except the added tokens.

    Args:
      values: of the file.
      special: the ids of the special pieces, by piece.
      path: of the file, for errors.

    Raises:
      UserError: for the first part that is not BERT's.
    """
    _only_known(values, _READ_PARTS | HARMLESS_PARTS.keys(), "", path)
    parts = {name: values.get(name) or {} for name in _READ_PARTS}
    for name, wanted in _ONLY_OF_MODEL.items():
        if (found := parts["model"].get(name, wanted)) != wanted:
            raise refusal(path, f"model.{name}={as_written(found)}")
    _only_known(parts["model"], {*_ONLY_OF_MODEL, "vocab"}, "model.", path)
    for name, wanted in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        if (found := parts[name].get("type")) != wanted:
            raise refusal(path, f"{name}.type={as_written(found)}")
    if not parts["normalizer"].get("clean_text", True):
        raise refusal(path, "normalizer.clean_text=false")
    normalizer = ("type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    _only_known(parts["normalizer"], normalizer, "normalizer.", path)
    check_truncation(values, str(path))
    if values.get("post_processor") and not _is_bert_template(values["post_processor"], special):
        raise refusal(path, f"post_processor={as_written(values['post_processor'])}")


def _only_known(
    values: Mapping[str, Any], known: Collection[str], where: str, path: pathlib.Path
) -> None:
    for name, value in values.items():
        if name not in known and value:
            raise UserError(
                f"{path}: {where}{name}={as_written(value)} is not known: remove the field if it"
                " does not change the ids of a text"
            )


def _is_bert_template(values: Mapping[str, Any], special: Mapping[str, int]) -> bool:
    """Returns True for [CLS] A [SEP] and [CLS] A [SEP] B [SEP], the last two parts in segment 1."""
    cls, sep = SPECIAL_PIECES_OF_WORDPIECE["cls"], SPECIAL_PIECES_OF_WORDPIECE["sep"]
    match values:
        case {"type": "BertProcessing", "cls": [str(first), int(a)], "sep": [str(last), int(b)]}:
            return (first, a, last, b) == (cls, special.get(cls), sep, special.get(sep))
        case {
            "type": "TemplateProcessing",
            "single": list(one),
            "pair": list(two),
            "special_tokens": dict(tokens),
        }:
            pass
        case _:
            return False

    def part(kind: str, name: str, segment: int) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": segment}}

    single = [
        part("SpecialToken", cls, 0),
        part("Sequence", "A", 0),
        part("SpecialToken", sep, 0),
    ]
    pair = [*single, part("Sequence", "B", 1), part("SpecialToken", sep, 1)]
    ids = {name: each.get("ids") for name, each in tokens.items() if isinstance(each, dict)}
    return (
        one == single
        and two == pair
        and all(ids.get(name) == [special.get(name)] for name in (cls, sep))
    )


def foreign_files(directory: pathlib.Path) -> list[str]:
    """Returns the names of files in a directory that belong to other tokenizers."""
    return [name for name in _FOREIGN_FILES if (directory / name).exists()]
