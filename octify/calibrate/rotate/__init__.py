"""Rotated bases: where only linear maps write and read a value, the basis of its channels is free.

With any invertible ``R``, what writes the value multiplied by ``R`` and what reads it by ``R^-1`` is the
same function::

    W_read W_write x = (W_read R^-1) (R W_write) x

``streams`` finds such values in a traced graph, ``choose`` takes from calibration inputs the basis whose
last directions lose least at half resolution, ``apply`` multiplies it into the weights on both sides. The
graph and its modules stay what they are, so nothing is paid at run time. The basis is part of the plan
(``octify.plan.rotation``), because a plan's channel numbers count in it.

The same freedom serves transformers: SliceGPT (arXiv 2401.15024).
"""

from octify.calibrate.rotate.apply import in_basis, rotate
from octify.calibrate.rotate.choose import with_rotations
from octify.calibrate.rotate.streams import LinearStream, streams

__all__ = ["LinearStream", "in_basis", "rotate", "streams", "with_rotations"]
