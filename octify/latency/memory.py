"""Peak memory of an inference, apart from the calling process.

For an ONNX file it is the growth of a fresh process's resident memory, from before the file is loaded to the
peak of its first inferences (weights included). For a module it is the peak of PyTorch's CPU allocator during
one call, beyond what it held before (weights not included; buffers inside libraries are not seen).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from octify.compat import memory_steps
from octify.errors import ExportError

Run = Callable[[], object]

# Runs without torch, whose own memory would drown the figure. Inputs are shapes and dtypes, as JSON.
_CHILD = """
import json, sys
import numpy as np, onnxruntime
path, threads, shapes = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
def peak():
    try:  # not getrusage: on Linux its peak begins with that of the process that started this one
        lines = open("/proc/self/status").read().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        import resource
        return (1 if sys.platform == "darwin" else 1024) * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed = {v.name: np.zeros(s, d) for v, (s, d) in zip(session.get_inputs(), shapes)}
for _ in range(3):
    session.run(None, feed)
print(peak() - before)
"""


def peak_of_file(path: Path, shapes: list[tuple[tuple[int, ...], str]], threads: int) -> int:
    """Growth in bytes of a process that loads ``path`` and runs it on zeros of ``shapes`` (with dtypes)."""
    command = [sys.executable, "-c", _CHILD, str(path), str(threads), json.dumps(shapes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ExportError(
            "onnxruntime does not run the file", where=str(path), why=lines[-1] if lines else None
        )
    return int(done.stdout)


def peak_of_call(run: Run) -> int:
    """Peak in bytes of PyTorch's CPU allocator during ``run()``, beyond what it held before."""
    run()
    with (
        _without_stderr(),
        torch.no_grad(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded,
    ):
        run()
    return max(accumulate(memory_steps(recorded), initial=0))


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Silence the trace points that the profiler's library writes to standard error, past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
