"""What TensorRT says while it works, in our words: warnings once, errors with the stage of their node."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from autotimm.export.stages import IN_WORDS, layer_of, stage_of
from autotimm.runtime.errors import one_line

_RAISE_MINIMUM = "the smallest shapes of the profile do not fit together; raise them"
_KNOWN: tuple[tuple[str, str], ...] = (
    # the beginning of a remark that a pattern becomes; an empty one is of no use to anyone
    (r"logger passed into create", ""),
    (r"INT64 weights.*cast down to INT32", ""),  # 8.6 has no INT64; ours are shapes and indices, which fit
    (r"weights are affected by this issue|If this is not the desired behavior", ""),
    (r"DataType is determined at build time|data type is determined at build", ""),
    (r"Make sure (?:input|output) .* has Int64 binding", ""),
    (r"EXPLICIT_BATCH.*(?:deprecated|ignored)", ""),
    (r"(?:Onnx|ONNX) model has been generated with", ""),
    (r"kMIN values in profile .* not self-consistent", _RAISE_MINIMUM),
    (
        r"[Ll]ayer ?[Nn]orm.*(?:FP16|overflow)|(?:FP16|overflow).*[Ll]ayer ?[Nn]orm",
        "layer norms run in fp16 here, which may overflow: verify the engine on real images",
    ),
    (
        r"engine plan file across different models of devices",
        "the engine fits GPUs of this model only; build it again on others",
    ),
    (
        r"[Tt]iming cache.*(?:mismatch|differ|different|ignored|compatib)",
        "the timing cache was made on another GPU or version and was not used",
    ),
    (
        r"(?:out of memory|[Ii]nsufficient memory|OutOfMemory).*(?:tactic|skip)|Skipping tactic .* memory",
        "some kernels were left out for want of memory: a larger --workspace may give a faster engine",
    ),
    (
        r"linked against .* but loaded",
        "TensorRT was built for another version of a CUDA library than the one it found; install the matching one",
    ),
    (r"half2 support|platform does not support fast", "this GPU has no fast arithmetic of this precision"),
)

_WAYS_OUT = (
    ("NonMaxSuppression", "its NMS must be plain tensor operations: export with --target portable"),
    ("antialias", "its resize must be matrix products: export with --target portable"),
    ("RoiAlign", "regions must be sampled by GridSample: export with --target portable"),
    ("NonZero", "export with --target portable"),
    ("K exceeds the maximum", "export with --candidates 3840 or fewer"),
    ("not self-consistent", _RAISE_MINIMUM),
    ("memory", "give it more memory: a larger --workspace, or end what else uses the GPU"),
)
_NODE = re.compile(r"[A-Za-z_][\w.]*/[A-Z]\w*_\d+")
"""A node of ours anywhere in a text; see :mod:`autotimm.export.stages`."""


@dataclass(frozen=True)
class Problem:
    """One node that TensorRT cannot read or build."""

    node: str
    operator: str
    reason: str

    def in_words(self, advice: str = "") -> str:
        """The node, its stage, and what to do.

        Args:
            advice: what to do where nothing is known of this problem.
        """
        where = f"{self.operator or 'an operator'} in "
        if self.node:
            stage = stage_of(self.node)
            where = f"{self.operator or self.node} in the {IN_WORDS.get(stage, stage)} ({layer_of(self.node)})"
        else:
            where += "the graph"
        text = f"{self.operator} {self.reason}"
        remedy = next((way for sign, way in _WAYS_OUT if sign in text), advice)
        return f"{where}: {self.reason}" + (f"; {remedy}" if remedy else "")


def remarks(warnings: Iterable[str]) -> tuple[str, ...]:
    """Warnings without repetition, in our words where we have them."""
    found: dict[str, None] = {}
    for warning in warnings:
        text = one_line(ValueError(warning.removeprefix("WARNING ")))
        text = next((ours for pattern, ours in _KNOWN if re.search(pattern, text)), text)
        if text:
            found[text if len(text) <= 240 else f"{text[:237]}..."] = None
    return tuple(found)


def parser_problems(parser: Any, errors: list[str]) -> list[Problem]:
    """What the parser stumbled over.

    Args:
        parser: after a parse that failed.
        errors: what was logged meanwhile; 8.6 names the node only there.
    """
    logged = re.findall(r'(?<!\w)name: "([^"]*/[A-Z]\w*_\d+)"', "\n".join(errors))
    problems = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = str(getattr(error, "node_name", str)())
        if not node and index < len(logged):
            node = logged[index]
        operator = str(getattr(error, "node_operator", str)()) or operator_of(node)
        problems.append(Problem(node, operator, _reason(str(error.desc()))))
    return problems or build_problems(errors)


def build_problems(errors: list[str]) -> list[Problem]:
    """What the builder logged, the node taken from the text."""
    problems = []
    for error in errors:
        found = _NODE.search(error)
        node = found.group() if found else ""
        problem = Problem(node, operator_of(node), _reason(error))
        if problem not in problems:
            problems.append(problem)
    named = [problem for problem in problems if problem.node]
    return named or problems


def operator_of(node: str) -> str:
    """``network.stem.conv/Conv_7`` is a ``Conv``."""
    return node.rpartition("/")[2].partition("_")[0]


def _reason(text: str) -> str:
    """One line of a message without source positions and the names of functions."""
    text = one_line(ValueError(text))
    text = re.sub(r"\[\S+::\S+::\d+\] |In \w+ at \S+:\d+\b|\S+\.(?:cpp|h):\d+:?|[\w:]+: (?=Error Code)", "", text)
    text = re.sub(r"Error Code \d+: |Assertion (?:failed: )?", "", text).replace(" .", ".").replace(" )", ")")
    text = " ".join(text.split())
    return text if len(text) <= 240 else f"{text[:237]}..."
