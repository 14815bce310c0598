"""Mutations of sound inputs: of bytes, of values in JSON and YAML, of members of an archive."""

import copy
import io
import json
import random
import zipfile
from typing import Any

import yaml

_DEEP = "@deep@"
_LONG = "@long@"
# Written in place of the above, which no serializer would write.
_RAW = {f'"{_DEEP}"': "[" * 50_000, f'"{_LONG}"': "9" * 5_000}
_ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**63, 2**64, -(2**63), 10**400, 1.5, 1e308),
    *(float("nan"), float("inf"), "", " ", "x", "1", "é\n", "\ud800", "\0", "../../x", "/etc/x"),
    *([], [[]], {}, {"": None}, [1, "a"], {"name": []}, "x" * 3000, _DEEP, _LONG),
)


def mutate_bytes(data: bytes, generator: random.Random) -> bytes:
    """Flip bits; remove, repeat, fill or overwrite bytes; truncate. Often near the beginning."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        reach = len(changed) if generator.random() < 0.5 else min(len(changed), 600)
        start = generator.randrange(max(1, reach))
        stop = min(len(changed), start + generator.choice((1, 2, 4, 8, 50, 400)))
        way = generator.randrange(7)
        if way <= 1 and changed:
            changed[start % len(changed)] ^= 1 << generator.randrange(8)
        elif way == 2:
            del changed[start:stop]
        elif way == 3:
            changed[start:start] = changed[start:stop]
        elif way == 4:
            filler = generator.choice((0, 0xFF, generator.randrange(256)))
            changed[start:stop] = bytes([filler]) * (stop - start)
        elif way == 5:
            del changed[start:]
        else:
            changed[start:stop] = generator.randbytes(stop - start)
    return bytes(changed)


def mutate_file(name: str, data: bytes, generator: random.Random) -> bytes:
    """Mutate a file: values, as far as its name says what they are, or bytes."""
    if generator.random() < 0.4:
        return mutate_bytes(data, generator)
    if name.endswith(".json"):
        return _json(json.loads(data), generator)
    if name.endswith(".jsonl"):
        lines = data.splitlines(keepends=True)
        place = generator.randrange(len(lines))
        lines[place] = _json(json.loads(lines[place]), generator).replace(b"\n", b" ") + b"\n"
        return b"".join(lines)
    if name.endswith(".yaml"):
        try:
            text = yaml.safe_dump(_mutate_value(yaml.safe_load(data), generator), sort_keys=False)
        except yaml.YAMLError:  # what has no representation
            return mutate_bytes(data, generator)
        return text.encode("utf-8", "surrogatepass")
    if name.endswith((".pt", ".bin")) and zipfile.is_zipfile(io.BytesIO(data)):
        return _archive(data, generator)
    return mutate_bytes(data, generator)


def mutate_text(text: str, generator: random.Random) -> str:
    """Mutate a text that is given on a command line or in a variable."""
    return mutate_bytes(text.encode(), generator).decode("utf-8", "surrogateescape")


def _json(value: Any, generator: random.Random) -> bytes:
    text = json.dumps(_mutate_value(value, generator))
    for placeholder, raw in _RAW.items():
        text = text.replace(placeholder, raw)
    return text.encode()


def _mutate_value(value: Any, generator: random.Random) -> Any:
    """Replace, remove, rename or move one to three members of nested lists and mappings."""
    for _ in range(generator.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        _collect(value, places)
        if not places or generator.random() < 0.02:
            return copy.deepcopy(generator.choice(_ODD))
        holder, key = generator.choice(places)
        way = generator.randrange(5)
        if way == 0:
            del holder[key]
        elif way == 1 and isinstance(holder, dict):
            holder[generator.choice(("x", "", f"{key}_", "../x"))] = holder.pop(key)
        elif way == 2:
            holder[key] = json.loads(json.dumps(generator.choice(places)[0]))
        else:
            holder[key] = copy.deepcopy(generator.choice(_ODD))  # may be mutated next
    return value


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Append (holder, key) of the members; a few only of a long list or mapping."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return
    for key in keys[:40]:
        places.append((value, key))
        _collect(value[key], places)


def _archive(data: bytes, generator: random.Random) -> bytes:
    """Mutate a member of a zip file, mostly its pickle, and pack it with right checksums."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as packed:
        names = source.namelist()
        pickles = [name for name in names if name.endswith(".pkl")]
        victim = generator.choice(pickles if generator.random() < 0.8 else names)
        for name in names:
            content = source.read(name)
            packed.writestr(name, mutate_bytes(content, generator) if name == victim else content)
    return target.getvalue()
