"""``octify convert --latency``: the runtime that it times in, and options that need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_whole_models_are_timed(
    octify: Any, net: Path, runtime: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """Faster on this machine, or dense: both are answered, with the figures."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    outcome = octify("convert", net, "--rules", "everywhere", "--latency", "--latency-runtime", runtime)
    assert outcome.code in (0, 1), outcome.err
    assert (tmp_path / "cache" / "octify" / f"{runtime}-1-threads.json").is_file()
    told = outcome.out + outcome.err
    assert (outcome.code == 0) == Path("net-octave").is_dir()
    assert f"Timed whole in {runtime}" in told or "save" in told
    if outcome.code == 1:
        assert "not surely faster in" in outcome.err or "would save" in outcome.err


@pytest.mark.parametrize("option", [("--latency-runtime", "openvino"), ("--latency-threads", "2")])
def test_options_without_latency_are_refused(octify: Any, net: Path, option: tuple[str, str]) -> None:
    outcome = octify("convert", net, *option)
    assert outcome.code == 2
    assert option[0] in outcome.err
    assert "add --latency" in outcome.err
