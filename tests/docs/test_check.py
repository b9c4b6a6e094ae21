"""The check of the documentation finds what does not exist."""

import pathlib

from docs.check import page_faults
from docs.markdown import Page

FAULTS = {
    "[a link](missing.md)": "the link missing.md leads nowhere",
    "[a link](#no-such-heading)": "the link #no-such-heading names a heading that is not there",
    "`data/corpus/gone.py`": "there is no file data/corpus/gone.py",
    "`losses.Missing`": "nothing is called losses.Missing",
    "`bert_jax.no_driver`": "nothing is called bert_jax.no_driver",
    "`encoder.widht=12`": "nothing is called encoder.widht",
    "`--config.batchsize=8`": "no config has a field batchsize",
    "`make toast`": "the Makefile has no target toast",
    "`python -m bert_jax.preprare --output=a`": "there is no bert_jax.preprare",
    "`python -m bert_jax.predict --txt=a`": "Unknown command line flag 'txt'",
    "`python -m bert_jax.predict --top_k=many`": "invalid literal for int()",
    "`python -m launch.sweep experiments/drop_nsp.py --onn=local`": "Unknown command line flag",
    "`python -m bert_jax.pretrain --config=configs/gone.py`": "configs/gone.py is no file",
    "`python -m bert_jax.pretrain ... --config.batch_size=8.5`": "must be a whole number",
    "`python -m bert_jax.pretrain --config=configs/pretrain_tiny.py --config.encoder.heads=7`": (
        "heads=7 does not divide encoder.width"
    ),
}

SOUND = """# A heading, with *marks*

[up](#a-heading-with-marks), `losses.Loss`, `bert_jax/model/encoder.py`, `encoder.width=12`,
`config.json`, `optax.adamw`, `make test`, `--config.data.random_b_rate=0`, and a command that is
wrapped: `python -m bert_jax.predict --checkpoint=runs/base
--text='the capital is [MASK].'`

```
$ NAME=value python -m bert_jax.prepare --source='jsonl:a#text' --output=out \\
      --workers=2   # a comment
python -m bert_jax.pretrain ... --replay=STEP --config.seed=SEED && python -m launch.sweep FILE.py
```

```python
from bert_jax.objectives.losses import Loss
```
"""


def faults(directory: pathlib.Path, text: str) -> list[str]:
    page = directory / "page.md"
    page.write_text(text)
    return list(page_faults(Page(page)))


def test_each_fault_is_found_with_its_line(tmp_path: pathlib.Path) -> None:
    for text, message in FAULTS.items():
        (found,) = faults(tmp_path, f"# A page\n\n{text}\n")
        assert found.startswith(f"{tmp_path / 'page.md'}:3: ")
        assert message in found


def test_faults_in_code_blocks_are_found(tmp_path: pathlib.Path) -> None:
    command = "```\nls\npython -m bert_jax.evaluate \\\n    --chekpoint=runs/task\n```\n"
    (found,) = faults(tmp_path, command)
    assert ":3: bert_jax.evaluate: Unknown command line flag 'chekpoint'" in found
    (found,) = faults(tmp_path, "```python\nfrom bert_jax.config import NoConfig\n```\n")
    assert "nothing is called bert_jax.config.NoConfig" in found


def test_what_exists_is_no_fault(tmp_path: pathlib.Path) -> None:
    assert faults(tmp_path, SOUND) == []
