"""Values of flags from their text."""

import argparse
import re

from experiments.benchmarks.timing import Shape


def parse_shape(text: str) -> Shape:
    """A shape of logits or images."""
    return _sides(text, 3, "8x512x512x2 (batch, space, classes or channels)")


def parse_window(text: str) -> Shape:
    """The sides of a window, none for the whole image."""
    return () if text == "whole" else _sides(text, 2, "16x32x32 (space), or whole")


def parse_counts(text: str) -> tuple[int, ...]:
    """Numbers from 1, separated by commas."""
    return tuple(parse_count(part) for part in text.split(","))


def parse_count(text: str) -> int:
    """A number from 1."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def parse_probability(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _sides(text: str, least: int, example: str) -> Shape:
    if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{least - 1},}}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like {example}")
    return tuple(map(int, text.split("x")))
