"""Octave layers, usable by hand. An octave value is a (high, low) pair of tensors."""

from octify.nn.boundary import MergeOctave, SplitOctave
from octify.nn.conv import OctaveConv, OctaveConv1d, OctaveConv2d, OctaveConv3d
from octify.nn.conv_transpose import (
    OctaveConvTranspose,
    OctaveConvTranspose1d,
    OctaveConvTranspose2d,
    OctaveConvTranspose3d,
)
from octify.nn.norm import OctaveBatchNorm2d, OctaveChannelwise
from octify.nn.prunable import prunable

__all__ = [
    "MergeOctave",
    "OctaveBatchNorm2d",
    "OctaveChannelwise",
    "OctaveConv",
    "OctaveConv1d",
    "OctaveConv2d",
    "OctaveConv3d",
    "OctaveConvTranspose",
    "OctaveConvTranspose1d",
    "OctaveConvTranspose2d",
    "OctaveConvTranspose3d",
    "SplitOctave",
    "prunable",
]
