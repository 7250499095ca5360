"""What makes the configs of two runs the same."""

import hashlib
import json
from typing import Any


def hash_of(values: dict[str, Any]) -> str:
    """SHA-256 of canonical JSON."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The fields that only one of two configs (of `as_dict`) has, or in which they differ."""
    missing = object()
    return sorted(name for name in {*a, *b} if a.get(name, missing) != b.get(name, missing))
