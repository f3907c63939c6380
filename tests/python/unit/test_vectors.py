"""The golden vectors of proto/: what C writes Python reads, and the other way round."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynatask import BadArguments
from dynatask.codec import Codec, Portable, Shape

PROTO = Path(__file__).parents[3] / "proto"


class Handle(Portable):
    def __init__(self, text: str) -> None:
        self.text = text

    def _portable(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.text == self.text


codec = Codec(Handle)


def value_of(data: Any) -> Any:
    """JSON's value, with what JSON cannot say spelled as {"$kind": ..}."""
    if isinstance(data, list):
        return [value_of(d) for d in data]
    if not isinstance(data, dict):
        return data
    if "$bytes" in data:
        return bytes.fromhex(data["$bytes"])
    if "$handle" in data:
        return Handle(data["$handle"])
    if "$datetime" in data:
        return datetime.fromisoformat(data["$datetime"].replace("Z", "+00:00")).astimezone(timezone.utc)
    if "$output" in data:
        return msgspec.msgpack.Ext(2, data["$output"].to_bytes(4, "big"))
    return {key: value_of(d) for key, d in data.items()}


VECTORS = json.loads((PROTO / "vectors.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=[v["name"] for v in VECTORS])
def test_vector(vector: Any) -> None:
    value, data = value_of(vector["value"]), bytes.fromhex(vector["hex"])
    assert codec.encoder.encode(value) == data
    if "$output" not in json.dumps(vector["value"]):  # which the core replaces before a handler sees it
        assert codec.any.decode(data) == value


def takes(*values: Any) -> None: ...


# Depth is the core's to refuse: no handler is ever given such bytes.
MALFORMED = [c for c in json.loads((PROTO / "malformed.json").read_text()) if "deep" not in c["name"]]


@pytest.mark.parametrize("case", MALFORMED, ids=[c["name"] for c in MALFORMED])
def test_malformed(case: Any) -> None:
    with pytest.raises(BadArguments):
        Shape("takes", takes, codec, {}).unpack(bytes.fromhex(case["hex"]))
