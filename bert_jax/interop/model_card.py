"""The model card of an exported model: its README.md, with usage and the data of its run."""

from typing import Any

import jax

import bert_jax
from bert_jax.interop.architectures import Model
from bert_jax.interop.families.family import Family, Head

_PIPELINES = {
    Head.PRETRAINING: "fill-mask",
    Head.MASKED_LM: "fill-mask",
    Head.ENCODER: "feature-extraction",
    Head.CLASSES: "text-classification",
    Head.TOKENS: "token-classification",
    Head.SPANS: "question-answering",
}


def make_card(model: Model, family: Family, head: Head) -> str:
    """Returns the card as Markdown, with what the checkpoint's metadata has."""
    metadata = model.metadata
    architecture, pipeline = family.architecture(head), _PIPELINES[head]
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    encoder = metadata["encoder"]
    rows = {
        "model": architecture,
        "parameters": f"{count:,}",
        "layers": f"{encoder['layers']} of width {encoder['width']}, {encoder['heads']} heads each",
        "longest input": f"{metadata.get('max_length', encoder['max_length'])} tokens",
        "vocabulary": f"{encoder['vocab_size']:,} ({_kind(metadata['tokenizer'])})",
        **_run(metadata),
        "exported by": f"bert_jax {bert_jax.__version__}",
    }
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {pipeline}",
        f"tags: [{family.model_type}, bert_jax]",
        "---",
        "",
        f"# A {family.classes} from bert_jax",
        "",
        "```python",
        f"from transformers import AutoTokenizer, {architecture}",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")',
        f'model = {architecture}.from_pretrained("DIRECTORY")',
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in rows.items()),
        "",
        "`bert_jax.json` has the whole config of the run; `python -m bert_jax.convert"
        " --from=hf:DIRECTORY --to=CHECKPOINT` turns this directory into a checkpoint again.",
        "",
    ]
    return "\n".join(lines)


def _kind(tokenizer: dict[str, Any]) -> str:
    """Returns the kind of a stored tokenizer, of the library's the algorithm."""
    kind = tokenizer["kind"]
    return tokenizer["model"]["model"]["type"] if kind == "library" else kind


def _run(metadata: dict[str, Any]) -> dict[str, Any]:
    config = metadata["config"]
    if "imported" in metadata:
        return {"imported from": metadata["imported"]}
    rows = {"steps": f"{metadata['step']:,}"} if "step" in metadata else {}
    rows |= {"batch size": config["batch_size"], "seed": config["seed"]}
    optimizer = config["optimizer"]
    rows["optimizer"] = f"{optimizer['rule']}, learning rate {optimizer['learning_rate']:g}"
    data = config["data"]
    if "objective" in data:
        rows["objectives"] = f"masked LM, {data['objective']}"
        rows["masking"] = f"{config['masking']['strategy']}, rate {config['masking']['rate']:g}"
        if data["objective"] == "sop":
            rows["sentence classes"] = "0: in order, 1: swapped"
    else:
        rows["task"] = config["task"]
        rows["epochs"] = config["epochs"]
        for name, score in metadata["scores"].items():
            rows[name] = f"{score:.4g}"
    if metadata.get("labels"):
        rows["labels"] = ", ".join(metadata["labels"])
    return rows


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
