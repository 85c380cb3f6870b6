"""From a module to an FX graph whose nodes know their shapes and costs."""

from octify.trace.facts import Facts, InputSpec
from octify.trace.tracer import Opaque, Traced, trace

__all__ = ["Facts", "InputSpec", "Opaque", "Traced", "trace"]
