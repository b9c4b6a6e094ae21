"""Damages bytes as disks, copies and editors do."""

import random


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Returns the bytes after one to three accidents; never none."""
    bytes_ = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(bytes_) + 1)
        end = min(len(bytes_), at + rng.choice([1, 2, 5, 40, 300]))
        match rng.choice(["flip", "flip", "cut", "remove", "repeat", "splice", "insert"]):
            case "flip" if at < len(bytes_):
                bytes_[at] ^= 1 << rng.randrange(8)
            case "cut":
                del bytes_[max(at, 1) :]
            case "remove":
                del bytes_[max(at, 1) : end]
            case "repeat":
                bytes_[at:at] = bytes_[at:end]
            case "splice":
                source = rng.randrange(len(bytes_))
                bytes_[at:end] = bytes_[source : source + end - at]
            case "insert":
                bytes_[at:at] = rng.randbytes(end - at)
    return bytes(bytes_) or b"\0"
