"""Tracing of a module to an FX graph whose nodes know their shapes and costs."""

from octify.trace.facts import Facts, InputSpec
from octify.trace.model import Opaque, Part, Parts, Traced
from octify.trace.trace import trace

__all__ = ["Facts", "InputSpec", "Opaque", "Part", "Parts", "Traced", "trace"]
