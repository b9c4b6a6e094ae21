r"""Searches texts by their vectors: prints the nearest of a corpus to each query.

    python -m bert_jax.search --checkpoint=runs/vectors --corpus=lines.txt --text='open a zip file'
    python -m bert_jax.search --checkpoint=runs/vectors --corpus=corpus.jsonl --input=queries.txt \
        --top_k=10 --json
    python -m bert_jax.predict --checkpoint=runs/vectors --features=of_checkpoint \
        --input=lines.txt --output=lines.npy
    python -m bert_jax.search --checkpoint=runs/vectors --corpus=lines.txt --vectors=lines.npy \
        --text='open a zip file'

The corpus is a file of lines, or a .jsonl with `_id`, `title` and `text`. Its vectors are computed,
or read from a file that `predict --features` wrote of the same lines, whose plain vectors are
divided by their lengths for a search by cosine; that file stays on the disk, and a million vectors
are searched in the memory of a few.
"""

import json
import sys
from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import SearchFlags, batch_size_flag, checkpoint_flag
from bert_jax.cli.streams import answer
from bert_jax.errors import UserError
from bert_jax.files import given_path

_CHECKPOINT = checkpoint_flag("any")
_CORPUS = flags.DEFINE_string("corpus", None, "a file of lines, or a .jsonl of documents")
_VECTORS = flags.DEFINE_string("vectors", None, "a .npy of predict --features, of a file of lines")
_TEXT = flags.DEFINE_string("text", None, "one query")
_INPUT = flags.DEFINE_string("input", None, "a file of queries, one a line")
_TOP_K = flags.DEFINE_integer("top_k", 5, "how many texts for each query", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "print JSON lines")
_SKIP_BAD_ROWS = flags.DEFINE_bool("skip_bad_rows", False, "leave out empty documents of a .jsonl")
_BATCH_SIZE = batch_size_flag()
_SEARCH = SearchFlags()


def main(_: Sequence[str]) -> None:
    """Reads the corpus and the queries, searches, and prints what is found."""
    checkpoint = app.require_path("checkpoint", _CHECKPOINT.value, "runs/vectors")
    corpus = app.require_path("corpus", _CORPUS.value, "lines.txt")
    text, lines = _TEXT.value, _INPUT.value
    if (text is None) == (lines is None):
        raise UserError("give the queries by one of --text and --input")
    if _VECTORS.value is not None and corpus.suffix == ".jsonl":
        raise UserError(f"--vectors={_VECTORS.value} is of a file of lines, and {corpus} is not")
    options = _SEARCH.value
    for name in ("pooling", "text_prompt", "length"):
        if _VECTORS.value is not None and getattr(options, name) is not None:
            raise UserError(
                f"--{name} is of the texts, whose vectors are those of"
                f" --vectors={_VECTORS.value}: leave one of the two out"
            )
    with app.imports():
        from bert_jax.checkpoints.checkpoint import find_checkpoint
        from bert_jax.config import MeshConfig
        from bert_jax.distributed.compiled import keep_compiled_of_commands
        from bert_jax.distributed.sharding import make_mesh
        from bert_jax.retrieval.search_encoder import SearchEncoder
        from bert_jax.retrieval.text_search import (
            TextSearch,
            plain_lines,
            read_texts_to_search,
            vectors_of_lines,
        )
    documents = read_texts_to_search(corpus, skip_bad_rows=_SKIP_BAD_ROWS.value)
    if documents.note:
        print(f"{corpus}: {documents.note}", file=sys.stderr)
    if _TOP_K.value > len(documents.ids):
        raise UserError(
            f"--top_k={_TOP_K.value}: {corpus} has {len(documents.ids):,} texts: choose at most"
            " that"
        )
    keep_compiled_of_commands()
    queries = plain_lines(given_path(lines)) if lines is not None else [(text or "").strip()]
    found, mesh = find_checkpoint(checkpoint), make_mesh(MeshConfig())
    encoder = SearchEncoder(found, mesh, options, batch_size=_BATCH_SIZE.value)
    vectors = None
    if _VECTORS.value is not None:
        path, normalised = given_path(_VECTORS.value), encoder.settings.normalised
        vectors = vectors_of_lines(path, documents, encoder.width, normalised=normalised)
    search = TextSearch(documents, encoder, vectors)
    results = search.best(queries, _TOP_K.value, mesh)
    for query, best in zip(queries, results, strict=True):
        if _JSON.value:
            answer(json.dumps({"query": query, "found": best}, ensure_ascii=False))
            continue
        answer(query)
        for each in best:
            answer(f"  {each['score']:7.4f}  {each['id']}  {each['text']}")


if __name__ == "__main__":
    app.run(main)
