"""Kernel times of onnxruntime's profiler, summed by operator type."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from octify.latency.rows import OpTime
from octify.latency.runtime import feed_of, session_of

CALLS = 10


def by_op_type(path: Path, inputs: Sequence[Tensor], threads: int, calls: int = CALLS) -> tuple[OpTime, ...]:
    """Operator types of an ONNX file in onnxruntime on the CPU, the slowest first."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(path, threads, profile=str(Path(folder) / "profile"))
        feed = feed_of(session, inputs)
        for _ in range(calls + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and "op_name" in event.get("args", {})]
    first: set[str] = set()
    spent: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for event in kernels:
        if not event["name"].endswith("_kernel_time"):
            continue
        op = event["args"]["op_name"]
        if event["name"] not in first:  # the first call allocates
            first.add(event["name"])
            nodes[op] += 1
        else:
            spent[op] += event["dur"]
    total = sum(spent.values()) or 1
    return tuple(
        OpTime(op, microseconds / 1000 / calls, microseconds / total, nodes[op])
        for op, microseconds in spent.most_common()
    )
