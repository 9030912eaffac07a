"""Parsing of `--target`."""

import re
from typing import cast

from eigencam.files import first_line
from eigencam.passes.embeddings import read_embedding, read_embeddings
from eigencam.store.build import find
from eigencam.targets import Target, box_score, embedding, prompt, segment


def parsed(text: str) -> Target | int:
    """Return the target that a command line names.

    >>> parsed("class:3"), str(parsed("box:0")), str(parsed("segment:15"))
    (3, 'box 0', 'segment 15')
    """
    kind, colon, value = text.partition(":")
    number, _, file = value.partition(":")
    if not colon and "." in text:
        return _function(text)
    if kind == "embedding" and file and re.fullmatch(r"\d+(\.\d+)?", number):
        return embedding(read_embedding(file), float(number))
    if kind == "embedding" and value:
        return embedding(read_embedding(value))
    if kind == "prompt" and file and number.isdecimal():
        return prompt(read_embeddings(file), int(number))
    try:
        numbers = [float(v) for v in value.split(",")]
        if kind == "box" and len(numbers) == 4:
            return box_score(numbers)
        if len(numbers) == 1 and numbers[0] == int(value) >= 0 and kind in ("class", "box", "segment"):
            number = int(value)
            return number if kind == "class" else box_score(number) if kind == "box" else segment(number)
    except ValueError as error:
        if "box_score" in str(error):
            raise
    allowed = (
        "class:K, box:NUMBER, box:x1,y1,x2,y2 in the image's pixels, segment:K, embedding:FILE, embedding:SCALE:FILE, "
        "prompt:K:FILE, my_module.my_target; a FILE is .npy or .safetensors"
    )
    raise ValueError(f"--target {text}; allowed: {allowed}")


def _function(name: str) -> Target:
    """The function with a dotted name; it is called with the network's output."""
    try:
        target: Target = find(name)
    except Exception as error:  # an import may raise anything
        raise ValueError(f"--target {name}: {first_line(error)}") from None
    if not callable(target):
        raise ValueError(f"--target {name}: {type(target).__name__}; allowed: a function of the network's output")
    return cast("Target", target)
