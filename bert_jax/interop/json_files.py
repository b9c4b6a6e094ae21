"""Reader for JSON files of other programs."""

import json
import pathlib
from typing import Any

from bert_jax.errors import UserError


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file with one JSON object.

    Raises:
      UserError: if it is not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): copy or download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object: copy or download it again")
    return values
