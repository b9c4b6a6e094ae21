"""JSON objects from outside."""

import json
import pathlib
from typing import Any

from bert_jax.errors import UserError


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file that must hold one JSON object.

    Raises:
      UserError: if it does not.
    """
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): copy or download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object: copy or download it again")
    return values
