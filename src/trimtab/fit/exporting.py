"""Why torch's exporters cannot take a module, in one line: the operator or the line of code at fault."""

from __future__ import annotations

import re
from pathlib import Path

PACKED = "_M_range_check"
"""What the older exporter says of a packed sequence whose outputs are never unpacked."""
UNKNOWN = re.compile(
    r"(?:No ONNX function found for <OpOverload\(op='|unrecognized namespace |Exporting the operator ')([\w:.]+)"
)
PLACE = re.compile(r'File "([^"]+)", line (\d+), in \w+\n\s+(\S[^\n]*)')
SUMMARY = re.compile(r"## Exception summary\s+(?:⬆️\s*)?<class '[^']*'>: ([^\n]+)")
INSIDE = ("site-packages", "dist-packages")


def reason(error: Exception) -> str:
    """Return why an exporter failed, in one line: the operator or the line of code at fault, where it can be told."""
    text = str(error)
    if PACKED in text:
        return "a packed sequence is never unpacked: read its last valid step from pad_packed_sequence(...)"
    unknown = UNKNOWN.search(text)
    if unknown:
        return f"the operator {unknown[1].rstrip('.')} has no form in ONNX"
    if "data-dependent" in text:
        places = [found for found in PLACE.findall(text) if not any(inside in found[0] for inside in INSIDE)]
        if places:
            file, line, code = places[-1]
            return f"{place_of(file, line)} decides on values that are known only at run time: {code}"
    summary = SUMMARY.search(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return (summary[1] if summary else lines[0])[:200]


def place_of(file: str, line: int | str) -> str:
    """Return where a line of code lies, without its folders."""
    return f"line {line} of {Path(file).name}"
