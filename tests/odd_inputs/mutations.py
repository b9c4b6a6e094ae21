"""Mutations of bytes, lines and JSON, drawn by a seed."""

import copy
import random
from typing import Any

# Characters that other programs leave in texts, or that break those that did not expect them.
CHARACTERS = (
    *"\0\t\r\v\f\x1c\x85\u2028\u2029\ufeff\u200b\u00ad\u202e\u2060\ufffd\ue000",
    *("\u0301", "\u00e9", "e\u0301", "\u6771", "\U0001f600", "\U0001f468\u200d\U0001f469"),
    *("[MASK]", "[SEP]", "[UNK]", "##s", "\\", '"', "'", ",", ";", "#", "-", "%s", "{0}", "$HOME"),
    *("nan", "NaN", "inf", "null", "None", "-1", "1e999", "0x10", "x" * 300, "red " * 300),
)
BYTES = (b"\xff", b"\xfe\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x00\x00\x00\x00")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 1.5, -0.0, 1e300, float("nan"), float("inf")),
    *("", " ", "x", "\ufeff", "\ud800", "0", "true", "null", [], {}, [[]], [None], {"": None}),
)


def mutated_text(rng: random.Random, text: str) -> bytes:
    """Returns a text after one to three mutations of its characters, lines or bytes."""
    content = text.encode(errors="surrogateescape")
    for _ in range(rng.randint(1, 3)):
        content = rng.choice(_OF_BYTES)(rng, content)
    return content


def _insert_characters(rng: random.Random, content: bytes) -> bytes:
    text = content.decode(errors="surrogateescape")
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(text))
        text = text[:at] + rng.choice(CHARACTERS) + text[at:]
    return text.encode(errors="surrogateescape")


def _insert_bytes(rng: random.Random, content: bytes) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + rng.choice(BYTES) + content[at:]


def _remove(rng: random.Random, content: bytes) -> bytes:
    begin = rng.randint(0, len(content))
    return content[:begin] + content[begin + rng.randint(1, 40) :]


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def _move_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines[at], lines[other] = lines[other], lines[at]
    elif change == 1:
        lines.insert(at, lines[other])
    elif change == 2:
        lines.insert(at, b"")
    else:
        del lines[at]
    return b"\n".join(lines)


def _change_breaks(rng: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b" \n", b"\x85"]))


def _mark(rng: random.Random, content: bytes) -> bytes:
    return rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b" "]) + content


def _encode(rng: random.Random, content: bytes) -> bytes:
    text = content.decode(errors="replace")
    return text.encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "latin-1"]), errors="replace")


def _separate(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    change = rng.choice(
        [(b"\t", b""), (b"\t", b"\t\t"), (b"\t", b" "), (b" ", b"\t"), (b"-", b"_")]
    )
    lines[at] = lines[at].replace(*change)
    return b"\n".join(lines)


_OF_BYTES = (
    *(_insert_characters, _insert_characters, _insert_characters, _insert_bytes, _remove, _cut),
    *(_move_lines, _move_lines, _change_breaks, _mark, _encode, _separate, _separate),
)


def mutated_json(rng: random.Random, value: Any) -> Any:
    """Returns a copy of a JSON value in which one to three places are changed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        change = rng.randrange(5)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, dict):
            parent[rng.choice(["", "x", f"{key} ", f"{key}".upper()])] = parent.pop(key)
        elif change == 2 and isinstance(parent[key], str):
            text = parent[key]
            at = rng.randint(0, len(text))
            parent[key] = text[:at] + rng.choice(CHARACTERS) + text[at:]
        elif change == 3 and isinstance(parent[key], int | float):
            parent[key] = rng.choice([-parent[key], parent[key] + 1, str(parent[key])])
        else:
            parent[key] = rng.choice(VALUES)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    pairs = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [place for key, child in pairs for place in ((value, key), *_places(child))]
