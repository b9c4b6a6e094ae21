"""Reader and writer for directories of sentence-transformers.

Such a directory is one of transformers, with files that say how a text's vector is made: the list
of modules, the pooling, the prompts and the length that longer texts are cut to. They are written
in the form that versions from 2 on read.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.pretrained import vector_settings
from bert_jax.config import (
    ComputeType,
    EncoderConfig,
    FinetuneConfig,
    Similarity,
    TaskKind,
    VectorPooling,
    VectorsConfig,
    from_dict,
    to_dict,
)
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.classes import encode_inputs
from bert_jax.data.tasks.rows import input_sizes, make_token_rows
from bert_jax.errors import UserError
from bert_jax.files import read_json, strict_json
from bert_jax.interop import huggingface, verify
from bert_jax.interop.architectures import Model, fine_tuned_metadata
from bert_jax.interop.tokenizers.tokenizer_fields import as_written
from bert_jax.model.heads import VectorModel
from bert_jax.text.tokenizer import Tokenizer, tokenizer_from_dict

SENTENCE_LIBRARY = "sentence_transformers"

_MODULES, _PROMPTS = "modules.json", "config_sentence_transformers.json"
# With the length; the library reads the first that is there and not empty.
_LENGTHS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Fields beside the length, and their values that are implemented; null and empty ones are.
_ONLY_WITH_LENGTH: dict[str, Any] = {
    "do_lower_case": False,
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
    "unpad_inputs": True,  # padding is no part of a vector
}
# Arguments in fields such as model_args that change no vector.
_HARMLESS_ARGUMENTS = ("trust_remote_code", "attn_implementation", "add_pooling_layer")
_POOLING_FILE = "config.json"
_TYPES = "sentence_transformers.models."
_POOLINGS = {  # of theirs
    "cls": VectorPooling.CLS,
    "mean": VectorPooling.MEAN,
    "lasttoken": VectorPooling.LAST,
}
_SWITCHES = {  # of versions before 6: of their poolings
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_SIMILARITIES = {"cosine": Similarity.COSINE, "dot": Similarity.PRODUCT}  # of theirs
_QUERY, _TEXT = "query", "document"  # prompts of encode_query and encode_document


def with_vectors(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns the metadata of the checkpoint of vectors that any checkpoint's encoder is.

    One of task=vectors stays as it is; of any other the vector is the plain mean, searched by the
    cosine.
    """
    if metadata["kind"] == TaskKind.VECTORS.value:
        return metadata
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    length = metadata.get("max_length", encoder.max_length)
    kept = {name: metadata[name] for name in ("family", "tokenizer") if name in metadata}
    made = kept | _metadata(encoder, vector_settings(metadata), length)
    return made | {"similarity": Similarity.COSINE.value}


def _metadata(encoder: EncoderConfig, settings: VectorsConfig, length: int) -> dict[str, Any]:
    metadata = fine_tuned_metadata(encoder, TaskKind.VECTORS, [], pairs=True)
    config = from_dict(FinetuneConfig, metadata["config"])
    config.vectors, config.data.length = settings, length
    return metadata | {"config": to_dict(config), "max_length": length}


def _config(metadata: dict[str, Any]) -> FinetuneConfig:
    return from_dict(FinetuneConfig, metadata["config"])


def write_sentence_encoder(model: Model, directory: pathlib.Path) -> None:
    """Writes a directory for sentence-transformers.

    Args:
      model: of kind vectors, with the encoder alone.
      directory: exists and is empty.

    Raises:
      UserError: as `huggingface.write_directory`.
    """
    config, width = _config(model.metadata), model.metadata["encoder"]["width"]
    settings, length = config.vectors, config.data.length
    metadata = model.metadata | {"max_length": length}
    huggingface.write_directory(model._replace(metadata=metadata), directory)
    names = ["Transformer", "Pooling"] + ["Normalize"] * settings.normalised
    by_cosine = settings.normalised or model.metadata.get("similarity") == Similarity.COSINE.value
    modules = []
    for number, name in enumerate(names):
        path = f"{number}_{name}" if number else ""
        modules.append({"idx": number, "name": str(number), "path": path, "type": _TYPES + name})
        (directory / path).mkdir(exist_ok=True)
    switches = {
        switch: _POOLINGS.get(name) is settings.pooling for switch, name in _SWITCHES.items()
    }
    pooling = {"word_embedding_dimension": width, **switches, "include_prompt": True}
    _write(directory / _MODULES, modules)
    _write(directory / modules[1]["path"] / _POOLING_FILE, pooling)
    _write(directory / _LENGTHS[0], {"max_seq_length": length, "do_lower_case": False})
    prompts = {_QUERY: settings.query_prompt, _TEXT: settings.text_prompt}
    values = {
        "__version__": {},
        "prompts": prompts if any(prompts.values()) else {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if by_cosine else "dot",
    }
    _write(directory / _PROMPTS, values)
    card = (directory / huggingface.CARD_FILE).read_text(encoding="utf-8")
    card = card.replace("library_name: transformers", "library_name: sentence-transformers")
    card = card.replace("pipeline_tag: feature-extraction", "pipeline_tag: sentence-similarity")
    (directory / huggingface.CARD_FILE).write_text(card, encoding="utf-8")


def _write(path: pathlib.Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sentence_encoder(
    directory: pathlib.Path, mesh: Mesh, *, tokenizer: Tokenizer | None, padded_vocabulary: bool
) -> Model:
    """Reads a directory of sentence-transformers as a checkpoint of kind vectors.

    Where vectors keep their length and are compared by the cosine, `similarity` of the metadata
    says so: a search divides them by their length, and their values stay those of the library.

    Args:
      directory: with modules.json.
      mesh: of one device.
      tokenizer: the model's; None: from the directory.
      padded_vocabulary: as `huggingface.read_directory`.

    Raises:
      UserError: if a module or a setting is not one of those that `write_sentence_encoder` writes,
        or as `huggingface.read_directory`.
    """
    paths = _module_paths(directory)
    inner = directory / paths["Transformer"]
    model = huggingface.read_directory(
        inner, mesh, tokenizer=tokenizer, padded_vocabulary=padded_vocabulary
    )
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    length = _read_length(inner) or model.metadata.get("max_length", encoder.max_length)
    length = min(length, encoder.max_length)
    query_prompt, text_prompt, notes = _read_prompts(directory / _PROMPTS)
    similarity = _read_similarity(directory / _PROMPTS)
    settings = dataclasses.replace(
        vector_settings(model.metadata),
        pooling=_read_pooling(
            directory / paths["Pooling"] / _POOLING_FILE, bool(query_prompt or text_prompt)
        ),
        normalised="Normalize" in paths,
        query_prompt=query_prompt,
        text_prompt=text_prompt,
    )
    if model.metadata["kind"] == TaskKind.VECTORS.value:  # a run of this project
        config = _config(model.metadata)
        config.vectors, config.data.length = settings, length
        metadata = model.metadata | {"config": to_dict(config), "max_length": length}
    else:
        metadata = model.metadata | _metadata(encoder, settings, length)
    metadata.pop("similarity", None)  # of our own file; that of the library counts
    if similarity is Similarity.COSINE and not settings.normalised:
        metadata["similarity"] = similarity.value
    unread = [group for group in model.params if group != "encoder"]
    notes += [f"no part of the vector: {', '.join(unread)}: left out"] * bool(unread)
    params = {"encoder": model.params["encoder"]}
    return Model(params, metadata, [*model.notes, *notes])


def _module_paths(directory: pathlib.Path) -> dict[str, str]:
    """Returns the folder of each module in the directory, by the last part of its type."""
    path = directory / _MODULES
    if not path.is_file():
        raise UserError(
            f"{directory} has no {_MODULES}: name a directory of sentence-transformers, or give"
            " hf:DIR"
        )
    try:
        modules = strict_json(path.read_text(encoding="utf-8"))
        pairs = [(each["type"].rpartition(".")[2], each["path"]) for each in modules]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is no list of modules: copy or download it again") from None
    names = [name for name, _ in pairs]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{path} has the modules {', '.join(names)}: only Transformer, Pooling and, after them,"
            " Normalize are implemented"
        )
    for name, folder in pairs:
        if not isinstance(folder, str):
            raise UserError(
                f"{path} has path={as_written(folder)} for {name}: write the name of its folder"
            )
    return dict(pairs)


def _read_length(directory: pathlib.Path) -> int | None:
    """Returns the length that texts are cut to, from the folder of the module Transformer."""
    paths = [path for name in _LENGTHS if (path := directory / name).is_file()]
    path, values = next(((p, v) for p in paths if (v := read_json(p))), (directory, {}))
    if values.get("do_lower_case"):
        raise UserError(
            f"{path} has do_lower_case=true, which is not implemented: if the tokenizer lower-cases"
            " texts by itself, set it to false"
        )
    for name, value in values.items():
        if isinstance(value, dict) and name.endswith(("_args", "_kwargs")):
            value = {n: each for n, each in value.items() if n not in _HARMLESS_ARGUMENTS}
        if name != "max_seq_length" and value and value != _ONLY_WITH_LENGTH.get(name):
            raise UserError(
                f"{path} has {name}={as_written(value)}, which is not implemented: remove it if the"
                " vectors are the same without it"
            )
    length = values.get("max_seq_length")
    if length is not None and (type(length) is not int or length < 4):
        raise UserError(f"{path} has max_seq_length={length}: write a whole number from 4")
    return length


def _read_pooling(path: pathlib.Path, has_prompts: bool) -> VectorPooling:
    if not path.is_file():
        raise UserError(f"{path} is not there: copy or download the directory again")
    values = read_json(path)
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [name for switch, name in _SWITCHES.items() if values.get(switch)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in [*_POOLINGS]:
        raise UserError(
            f"{path} has the pooling {modes}: only one of {', '.join(_POOLINGS)} is implemented"
        )
    if has_prompts and values.get("include_prompt") is False:
        raise UserError(
            f"{path} has include_prompt=false, and leaving a prompt's tokens out of a vector is not"
            " implemented"
        )
    return _POOLINGS[modes[0]]


def _read_prompts(path: pathlib.Path) -> tuple[str, str, list[str]]:
    """Returns the prompts of queries and of texts, and notes.

    They are those of encode_query and encode_document, which read the prompts `query` and
    `document`, and put none where one is empty or not there. A directory that has neither has the
    default prompt for both, as encode.
    """
    prompts, default = _stated_prompts(path)
    always = prompts.get(default, "") if default else ""
    by_default = _are_by_default(prompts, default)
    query, text = (always if by_default else prompts.get(name, "") for name in (_QUERY, _TEXT))
    notes = []
    if always and {query, text} != {always}:
        notes.append(
            f"default_prompt_name={default}: only encode of the library puts it before all texts;"
            " encode_query and encode_document are followed"
        )
    used = {_QUERY, _TEXT, default}
    if more := sorted(name for name in prompts if name not in used and prompts[name]):
        notes.append(
            f"prompts that the library does not use by itself, left out: {', '.join(more)}; rename"
            f" one to {_QUERY} or {_TEXT} to use it"
        )
    return query, text, notes


def _stated_prompts(path: pathlib.Path) -> tuple[dict[str, str], str | None]:
    """Returns the prompts of a file, by name, and the name of the default one."""
    values = read_json(path) if path.is_file() else {}
    prompts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise UserError(f"{path} has prompts that are no texts: correct it")
    if default is not None and default not in [*prompts, _QUERY, _TEXT]:
        raise UserError(
            f"{path} has default_prompt_name={as_written(default)}, which is none of its prompts:"
            " name one of them, or remove it"
        )
    return prompts, default


def _are_by_default(prompts: dict[str, str], default: str | None) -> bool:
    """Returns True if the default prompt is that of all texts, as in models of one kind of text."""
    return default is not None and prompts.keys().isdisjoint((_QUERY, _TEXT))


def _read_similarity(path: pathlib.Path) -> Similarity:
    """Returns what the library compares vectors by; where nothing is said, the cosine."""
    values = read_json(path) if path.is_file() else {}
    name = values.get("similarity_fn_name")
    if name is None:
        return Similarity.COSINE
    if not isinstance(name, str) or name not in _SIMILARITIES:
        raise UserError(
            f"{path} has similarity_fn_name={name}: only {' and '.join(_SIMILARITIES)} are"
            " implemented; write one of these to search by it"
        )
    return _SIMILARITIES[name]


def compare_with_library(
    model: Model, directory: pathlib.Path, sentences: Sequence[str]
) -> Iterator[str]:
    """Makes vectors of sentences, as queries and as texts, with both libraries.

    Args:
      model: ours, of kind vectors.
      directory: of sentence-transformers.
      sentences: to compare on.

    Yields:
      A line for the log for queries and one for texts, or one line if the library is not installed.

    Raises:
      UserError: if the vectors differ.
    """
    if not verify.is_installed(SENTENCE_LIBRARY):
        yield "vectors not verified: sentence-transformers is not installed"
        return
    import transformers
    from sentence_transformers import (  # pyright: ignore[reportMissingImports]
        SentenceTransformer,
    )

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    library = SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    settings = _config(model.metadata).vectors
    by_default = _are_by_default(*_stated_prompts(directory / _PROMPTS))
    for name, method, prompt in (
        ("queries", "encode_query", settings.query_prompt),
        ("texts", "encode_document", settings.text_prompt),
    ):
        # The library chooses the prompt, so that another choice than ours is seen.
        encode = library.encode if by_default else getattr(library, method, None)
        if encode is None:  # before version 5
            encode = functools.partial(library.encode, prompt=prompt)
        theirs = encode(list(sentences), convert_to_numpy=True, show_progress_bar=False)
        ours = _our_vectors(model, [prompt + sentence for sentence in sentences])
        rows = {"example_ids": np.ones((len(ours), 1), np.int32)}
        name = f"vectors of {name}" + (f" with {prompt!r}" if prompt else "")
        for difference in verify.compare(
            {name: ours[:, None]}, {name: np.asarray(theirs)[:, None]}, rows
        ):
            yield f"verified against sentence-transformers, {difference}"


def _our_vectors(model: Model, texts: Sequence[str]) -> np.ndarray:
    """Returns the vectors of texts, [n, D] float32, of the model in float32."""
    encoder = from_dict(EncoderConfig, model.metadata["encoder"])
    encoder = dataclasses.replace(encoder, compute_type=ComputeType.FLOAT32)
    config = _config(model.metadata)
    module = VectorModel(encoder, config.vectors.pooling, config.vectors.normalised)
    tokenizer = tokenizer_from_dict(model.metadata["tokenizer"])
    a, b, _ = encode_inputs(texts, [""] * len(texts), tokenizer, config.data.length)
    longest = int(input_sizes(a, b, tokenizer.special).max())
    row_format = RowFormat(longest, 1, tokenizer.special, pool_last=module.pool_last)
    batch = make_token_rows(a, b, np.ones(len(a), np.int64), row_format)[0]
    with jax.default_matmul_precision("highest"):
        vectors = jax.jit(lambda p, x: module.apply({"params": p}, x, deterministic=True))(
            model.params, batch
        )
    return np.asarray(vectors)[:, 0]
