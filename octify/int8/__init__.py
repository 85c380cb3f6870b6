"""Int8 files that were compared with the float file of the same model: ``octify.export_int8``."""

from octify.int8.export import export_int8
from octify.int8.result import Int8Result

__all__ = ["Int8Result", "export_int8"]
