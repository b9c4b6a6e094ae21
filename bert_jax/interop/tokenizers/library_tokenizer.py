"""Reader for byte-level BPE and Unigram tokenizers in a directory of transformers."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from bert_jax.errors import UserError
from bert_jax.interop.tokenizers.added_tokens import (
    check_roles,
    listed_tokens,
    stated_fields,
    wrong_id,
)
from bert_jax.interop.tokenizers.tokenizer_fields import (
    LIBRARY_CLASSES,
    OF_TEMPLATE,
    OF_WORDPIECE,
    as_written,
    check_class_of_library,
    check_config,
)
from bert_jax.text.library import LIBRARY_FILE, LibraryTokenizer, added_token, library_from_values
from bert_jax.text.library_files import (
    MERGED_VOCAB_FILE,
    ROBERTA_PIECES,
    check_added,
    from_library_values,
    merges_values,
    model_ids,
    named_pieces,
    roberta_parts,
)
from bert_jax.text.sentence_pieces import sentencepiece_proto
from bert_jax.text.vocabulary import VOCAB_FILE, read_file

FAIRSEQ_MODEL_FILE = "sentencepiece.bpe.model"
_FAIRSEQ_CLASS = "XLMRobertaTokenizer"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_PREFIX = "add_prefix_space"


class _Built(NamedTuple):
    """Steps of a tokenizer that a class of transformers builds, whatever tokenizer.json has."""

    steps: list[str]  # types of the pre-tokenizers
    normalizers: tuple[str, ...] = ()  # that it takes over from the file
    prefix_space: bool = False  # where tokenizer_config.json does not say
    ends: tuple[str, ...] = ()  # fields of the pieces around a text; none: as the file has it


_ROBERTA = _Built(["ByteLevel"], ends=("cls_token", "sep_token"))
_WORDS_AND_MARKS = _Built(
    ["WhitespaceSplit", "Metaspace"], ("Precompiled",), True, ("bos_token", "eos_token")
)
_BUILT = {
    "BartTokenizer": _ROBERTA,
    "LongformerTokenizer": _ROBERTA,
    "RobertaTokenizer": _ROBERTA,
    "GPT2Tokenizer": _Built(["ByteLevel"]),
    _FAIRSEQ_CLASS: _WORDS_AND_MARKS,
    "CamembertTokenizer": _WORDS_AND_MARKS,
    "BertTokenizer": _Built(["BertPreTokenizer"], ("BertNormalizer",)),
}
# The class where no file names one, by the `model_type` of config.json; of others there is none.
_CLASS_OF_MODEL = {
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": _FAIRSEQ_CLASS,
}


class TokenizerFiles(NamedTuple):
    """The files of a tokenizer in a directory of transformers; {} for one that is not there."""

    directory: pathlib.Path
    config_path: pathlib.Path  # of tokenizer_config.json
    config: Mapping[str, Any]
    special_map: Mapping[str, Any]  # special_tokens_map.json
    added: Mapping[str, Any]  # added_tokens.json
    fast: Mapping[str, Any]  # tokenizer.json
    kind: str | None  # the class of the tokenizer, if a file names one
    model_type: Any  # of config.json

    @property
    def fields(self) -> dict[str, Any]:
        """Returns what the small files state, as transformers reads them."""
        return stated_fields(self.config, self.special_map)

    @property
    def opened(self) -> str | None:
        """Returns the class that transformers opens the directory with, without "Fast"."""
        kind = self.kind or _CLASS_OF_MODEL.get(str(self.model_type))
        return kind and kind.removesuffix("Fast")


def read_library_tokenizer(files: TokenizerFiles) -> LibraryTokenizer | None:
    """Reads the tokenizer of a directory, if it is a byte-level BPE or a Unigram model.

    Returns:
      The tokenizer, with what was assumed in its notes; None if it is none of these.

    Raises:
      UserError: if it is not understood.
    """
    if (files.fast.get("model") or {}).get("type") in ("BPE", "Unigram"):
        return _from_library_file(files)
    is_library = (files.kind or "").removesuffix("Fast") in LIBRARY_CLASSES
    if files.fast or ((files.directory / VOCAB_FILE).is_file() and not is_library):
        return None
    if (path := files.directory / MERGED_VOCAB_FILE).is_file():
        return _from_merges(files, path)
    if (path := files.directory / FAIRSEQ_MODEL_FILE).is_file():
        return _from_fairseq(files, path)
    return None


def _check_fields(files: TokenizerFiles, path: pathlib.Path, *followed: str) -> None:
    """Checks the class and the fields of the small files, but for those that are `followed`."""
    check_class_of_library(files.kind, files.config, path)
    check_config(files.config, files.config_path, others={*OF_WORDPIECE, _PREFIX, *followed})


def _from_library_file(files: TokenizerFiles) -> LibraryTokenizer:
    path = files.directory / LIBRARY_FILE
    _check_fields(files, path, *OF_TEMPLATE)
    values, notes = _with_prefix_space(files)
    named = named_pieces({**files.special_map, **files.fields})
    made = from_library_values(_with_added(values, files, path, named), str(path), named)
    if built := _BUILT.get(files.opened or ""):
        _check_ends(files, built, made)
    made.notes = (*notes, *filter(None, [class_note(files, made)]))
    return made


def _from_merges(files: TokenizerFiles, path: pathlib.Path) -> LibraryTokenizer:
    _check_fields(files, path)
    if files.opened in _BUILT and not _BUILT[files.opened].ends:
        raise UserError(
            f"{path}: tokenizer_class={files.kind} without {LIBRARY_FILE} is not implemented, for"
            " it puts no pieces around texts: save it once with transformers, which writes the file"
        )
    named = {
        role: _content(files.fields.get(f"{role}_token")) or piece
        for role, piece in ROBERTA_PIECES.items()
    }
    values = merges_values(path, named, prefix_space=bool(_stated_prefix(files)))
    return from_library_values(_with_added(values, files, path, named), str(path), named)


def _from_fairseq(files: TokenizerFiles, path: pathlib.Path) -> LibraryTokenizer:
    if files.kind is not None and files.kind.removesuffix("Fast") != _FAIRSEQ_CLASS:
        raise UserError(
            f"{path}: tokenizer_class={files.kind} without {LIBRARY_FILE} is not implemented: only"
            f" {_FAIRSEQ_CLASS} is; save it once with transformers, which writes the file"
        )
    _check_fields(files, path)
    pieces = {**ROBERTA_PIECES, "bos": ROBERTA_PIECES["cls"], "eos": ROBERTA_PIECES["sep"]}
    check_roles(pieces, files.config, files.special_map, files.config_path)
    if _stated_prefix(files) is False:
        raise _refused_prefix(files, False)
    values = _with_added(fairseq_values(path), files, path, ROBERTA_PIECES)
    return from_library_values(values, str(path), ROBERTA_PIECES)


def _with_added(
    values: Mapping[str, Any],
    files: TokenizerFiles,
    path: pathlib.Path,
    named: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the fields of a tokenizer.json with the tokens that the files beside it add.

    The flags in `added_tokens_decoder` come before those of the file. The pieces of padding, of
    unknown text and of masks are in the vocabulary of a trained model, and are not added.
    """
    check_added(values, str(path))
    known = {token["content"]: dict(token) for token in values.get("added_tokens") or []}
    decoder = files.config.get("added_tokens_decoder")
    tokens = listed_tokens(files.config, {}, files.special_map, files.added, files.config_path)
    if decoder and files.fast and files.opened in _BUILT:
        contents = {token["content"] for token in tokens if "id" in token}
        # The class itself adds special pieces, with their ids if the model has them.
        contents |= {*named.values(), *ROBERTA_PIECES.values()} & model_ids(
            values, str(path)
        ).keys()
        if lacking := [content for content in known if content not in contents]:
            raise UserError(
                f"{files.config_path}: added_tokens_decoder lacks {lacking[0]!r}, an added token of"
                f" {LIBRARY_FILE}: add it there, or remove it here"
            )
    new, missed = [], {named.get(role) for role in ("pad", "unk", "mask")}
    for token in tokens:
        content, id = token["content"], token.get("id")
        special = bool(token.get("special"))
        plain = added_token(0, content, special=special) | {"normalized": not special}
        whole = plain | {name: token[name] for name in _FLAGS if name in token}
        if content in known:
            if id is not None and id != known[content]["id"]:
                raise wrong_id(files.config_path, token, known[content]["id"])
            if id is not None and decoder:
                known[content] |= whole | {"id": id}
        elif id is not None:
            known[content] = whole | {"id": id}
        elif content and content not in missed:
            new.append(whole)
    made = {**values, "added_tokens": sorted(known.values(), key=lambda token: token["id"])}
    if new:
        library = library_from_values(made, str(path))  # which gives out the ids
        library.add_tokens([token["content"] for token in new])
        ids = library.get_vocab()
        made["added_tokens"] += [token | {"id": ids[token["content"]]} for token in new]
        made["added_tokens"].sort(key=lambda token: token["id"])
    return made


def _stated_prefix(files: TokenizerFiles) -> bool | None:
    value = files.config.get(_PREFIX)
    if value is None or isinstance(value, bool):
        return value
    raise UserError(
        f"{files.config_path}: {_PREFIX}={as_written(value)} is neither true nor false: correct the"
        " file"
    )


def _refused_prefix(files: TokenizerFiles, value: bool) -> UserError:
    return UserError(
        f"{files.config_path}: {_PREFIX}={as_written(value)} is not implemented for this tokenizer,"
        f" whose files have it {as_written(not value)}: correct or remove the field"
    )


def _with_prefix_space(files: TokenizerFiles) -> tuple[Mapping[str, Any], list[str]]:
    """Returns the fields of tokenizer.json as the class reads them, and notes.

    A class that builds its steps puts a space before texts as tokenizer_config.json says; one that
    takes the file as it is, as that says.
    """
    fast, stated = files.fast, _stated_prefix(files)
    built = _BUILT.get(files.opened or "")
    if built is None or (has := _prefix_space(fast)) in (None, _wanted_prefix(files, built)):
        return fast, []
    if _other_steps(files, built):
        if stated is not None:
            raise _refused_prefix(files, stated)
        return fast, []
    by_default = "" if stated is not None else ", by default"
    note = (
        f"{LIBRARY_FILE} has {_PREFIX}={as_written(has)} and {files.config_path.name}"
        f" {_PREFIX}={as_written(not has)}{by_default}: {files.config_path.name} is followed"
    )
    (step,) = _steps(fast["pre_tokenizer"])
    return {**fast, "pre_tokenizer": {**step, _PREFIX: not has}}, [note]


def _wanted_prefix(files: TokenizerFiles, built: _Built) -> bool:
    stated = _stated_prefix(files)
    return built.prefix_space if stated is None else stated


def _prefix_space(fast: Mapping[str, Any]) -> bool | None:
    """Returns True if a tokenizer.json puts a space before texts; None if no step tells."""
    for step in _steps(fast.get("pre_tokenizer")):
        if step.get("type") == "ByteLevel":
            return bool(step.get(_PREFIX, True))
        if step.get("type") == "Metaspace":
            return bool(step.get(_PREFIX, step.get("prepend_scheme") != "never"))
    return None


def _steps(part: Any) -> list[dict[str, Any]]:
    """Returns the steps of a part of a tokenizer.json, without the sequence around them."""
    steps = [part]
    if isinstance(part, dict):
        steps = part.get("pretokenizers") or part.get("normalizers") or steps
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _other_steps(files: TokenizerFiles, built: _Built) -> str:
    """Returns what of a tokenizer.json the class would build in another way; '' if nothing."""
    steps, normalizers = (
        [str(step.get("type")) for step in _steps(files.fast.get(part))]
        for part in ("pre_tokenizer", "normalizer")
    )
    if steps != built.steps:
        return as_written(steps)
    if set(normalizers) - set(built.normalizers):
        return as_written(normalizers)
    has = _prefix_space(files.fast)
    if "Metaspace" in steps and has != _wanted_prefix(files, built):
        return f"{_PREFIX}={as_written(has)}"
    return ""


def _check_ends(files: TokenizerFiles, built: _Built, made: LibraryTokenizer) -> None:
    """Checks that a class puts the same pieces around texts as tokenizer.json does.

    Raises:
      UserError: for a field that names another one.
    """
    for (field, stated), piece in zip(_ends(files, built).items(), _pieces(made), strict=False):
        if files.fields.get(field) and stated != piece:
            raise UserError(
                f"{files.config_path}: {field}={as_written(stated)} is not the {piece} that"
                f" {LIBRARY_FILE} puts around texts: correct one of them"
            )


def _ends(files: TokenizerFiles, built: _Built) -> dict[str, Any]:
    """Returns the pieces that a class puts around texts, by the names of their fields."""
    usual = (ROBERTA_PIECES["cls"], ROBERTA_PIECES["sep"])
    pairs = zip(built.ends, usual, strict=False)
    return {field: _content(files.fields.get(field)) or piece for field, piece in pairs}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _pieces(made: LibraryTokenizer) -> list[str]:
    return [made.id_to_piece(id) for id in (made.special.cls, made.special.sep)]


def class_note(files: TokenizerFiles, made: LibraryTokenizer) -> str:
    """Returns a line if the class of transformers would build another tokenizer than the file's.

    Args:
      files: of the directory, with a tokenizer.json.
      made: the tokenizer of that.
    """
    built = _BUILT.get(files.opened or "")
    if built is None:
        return ""
    if other := _other_steps(files, built):
        differs = f"has other steps than the class {files.opened}"
    else:
        frame = [*_pieces(made), made.special.separators, made.special.segments]
        if not built.ends or frame == [*_ends(files, built).values(), 2, False]:
            return ""
        differs = f"frames texts in another way than the class {files.opened}"
        cls, sep = _ends(files, built).values()
        other = f"{cls} A {sep} {sep} B {sep}"
    return (
        f"{LIBRARY_FILE} is followed, which {differs}, which some versions of transformers build"
        f" instead: {other}"
    )


def fairseq_values(path: pathlib.Path) -> dict[str, Any]:
    """Returns a SentencePiece model as a tokenizer.json, with the ids that fairseq gave its pieces.

    Its own three control pieces go, <s> <pad> </s> <unk> come first, and <mask> is the last.
    """
    proto = sentencepiece_proto(read_file(path), str(path))
    pieces = [[piece.piece, piece.score] for piece in proto.pieces[3:]]
    first = [[ROBERTA_PIECES[role], 0.0] for role in ("cls", "pad", "sep", "unk")]
    vocab = [*first, *pieces, [ROBERTA_PIECES["mask"], 0.0]]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    ids = {piece: id for id, (piece, _) in enumerate(vocab)}
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    normalizer = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(charsmap).decode(),
    }
    return roberta_parts(ids, ROBERTA_PIECES) | {
        "normalizer": normalizer if charsmap else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, marks],
        },
        "decoder": marks,
        "model": {"type": "Unigram", "unk_id": ids[ROBERTA_PIECES["unk"]], "vocab": vocab},
    }
