"""The plan: data with a JSON round trip, which can be saved, edited, diffed and replayed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import Field, ValidationError

from octify.checks.documents import parse_json, read_text
from octify.errors import PlanError
from octify.files import staged_file
from octify.kernels.taps import Exchange, Scheme
from octify.plan.document import StrictDocument
from octify.plan.rotation import Rotation, RotationDocument, rotations_of
from octify.trace.facts import InputSpec
from octify.trace.model import Opaque

FORMAT = 1


@dataclass(frozen=True)
class ConvPlan:
    """One convolution: low channels of its input and output (ascending indices).

    Both empty means that it is left as it is, for ``reason``. An empty ``low_out`` beside a
    non-empty ``low_in`` ends an octave value; ``reason`` then says why its output is dense.
    With ``exchange`` ``"spatial"`` it has no paths between high and low channels, with
    ``"high-to-low"`` none from low to high ones.
    """

    path: str
    in_channels: int
    out_channels: int
    low_in: tuple[int, ...] = ()
    low_out: tuple[int, ...] = ()
    kernels: Scheme = "paper"
    reason: str | None = None
    exchange: Exchange = "full"

    @property
    def converted(self) -> bool:
        """Return whether any side is octave."""
        return bool(self.low_in or self.low_out)

    @property
    def alpha_in(self) -> float:
        """Share of low-frequency input channels."""
        return len(self.low_in) / self.in_channels

    @property
    def alpha_out(self) -> float:
        """Share of low-frequency output channels."""
        return len(self.low_out) / self.out_channels


@dataclass(frozen=True)
class Plan:
    """Plan of a conversion.

    alpha, rules:
        The request, for the record; the entries of the convolutions decide.
    kernels:
        Scheme of pooling layers, and the default of the convolutions.
    inputs:
        The example inputs the plan was made for.
    rotations:
        Values whose channels are those of another basis, which their channel numbers count in.
    leaves:
        Modules that are run as they are, whether or not they can be traced: the graph of the model is then
        the one that the plan was made for. A path is empty where the model's own code is.
    inside:
        Whether parts inside modules that cannot be traced are looked for, likewise.
    """

    alpha: float
    rules: str
    kernels: Scheme
    inputs: tuple[InputSpec, ...]
    convs: tuple[ConvPlan, ...]
    rotations: tuple[Rotation, ...] = ()
    leaves: tuple[Opaque, ...] = ()
    inside: bool = True

    @cached_property
    def by_path(self) -> Mapping[str, ConvPlan]:
        """The convolutions by module path."""
        return {conv.path: conv for conv in self.convs}

    def conv(self, path: str) -> ConvPlan:
        """The entry of a convolution; raises PlanError when the plan has none."""
        try:
            return self.by_path[path]
        except KeyError:
            raise PlanError(
                f"the plan has no entry for {path}", hint="make a new plan for this model"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "format": FORMAT,
            "alpha": self.alpha,
            "rules": self.rules,
            "kernels": self.kernels,
            "inputs": [{"shape": list(spec.shape), "dtype": spec.dtype} for spec in self.inputs],
            "convolutions": [
                {
                    "path": conv.path,
                    "in_channels": conv.in_channels,
                    "out_channels": conv.out_channels,
                    "low_in": list(conv.low_in),
                    "low_out": list(conv.low_out),
                    "kernels": conv.kernels,
                    "exchange": conv.exchange,
                    "reason": conv.reason,
                }
                for conv in self.convs
            ],
            "rotations": [rotation.to_dict() for rotation in self.rotations],
            "leaves": [
                {"path": leaf.path, "kind": leaf.kind, "reason": leaf.reason, "where": leaf.where}
                for leaf in self.leaves
            ],
            **({} if self.inside else {"inside": False}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str | None = None) -> Plan:
        """The plan of ``to_dict``'s form. Raises PlanError naming the wrong entry."""
        try:
            document = _Document.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            raise PlanError("the plan is not valid", where=where, why=f"{place}: {first['msg']}") from None
        return document.plan(where)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        with staged_file(Path(path)) as staged:
            staged.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan. Raises PlanError when the file is missing or not a plan."""
        try:
            data = parse_json(read_text(Path(path)))
        except OSError as error:
            raise PlanError("the plan cannot be read", where=str(path), why=error.strerror) from None
        except ValueError as error:
            raise PlanError("the plan is not JSON", where=str(path), why=str(error)) from None
        return cls.from_dict(data, str(path))


class _Input(StrictDocument):
    shape: list[int]
    dtype: str


class _Conv(StrictDocument):
    path: str
    in_channels: int = Field(gt=0)
    out_channels: int = Field(gt=0)
    low_in: list[int] = Field(default_factory=list)
    low_out: list[int] = Field(default_factory=list)
    kernels: str = Field("paper", pattern="^(paper|exact)$")
    exchange: str = Field("full", pattern=f"^({'|'.join(get_args(Exchange))})$")
    reason: str | None = None


class _Leaf(StrictDocument):
    path: str
    kind: str
    reason: str
    where: str | None = None


class _Document(StrictDocument):
    format: int = Field(ge=FORMAT, le=FORMAT)
    alpha: float = Field(ge=0, le=1)
    rules: str
    kernels: str = Field(pattern="^(paper|exact)$")
    inputs: list[_Input]
    convolutions: list[_Conv]
    rotations: list[RotationDocument] = Field(default_factory=list)
    leaves: list[_Leaf] = Field(default_factory=list)
    inside: bool = True

    def plan(self, where: str | None) -> Plan:
        for path, count in Counter(conv.path for conv in self.convolutions).items():
            if count > 1:
                raise PlanError(f"{path} has {count} entries", where=where, hint="keep one of them")
        for conv in self.convolutions:
            for side, low, channels in (
                ("low_in", conv.low_in, conv.in_channels),
                ("low_out", conv.low_out, conv.out_channels),
            ):
                if len(set(low)) != len(low) or any(not 0 <= c < channels for c in low):
                    raise PlanError(
                        f"{conv.path}: {side} is not a set of channels",
                        where=where,
                        why=f"it must hold different numbers from 0 to {channels - 1}",
                    )
        return Plan(
            self.alpha,
            self.rules,
            cast(Scheme, self.kernels),
            tuple(InputSpec(tuple(i.shape), i.dtype) for i in self.inputs),
            tuple(
                ConvPlan(
                    c.path,
                    c.in_channels,
                    c.out_channels,
                    tuple(sorted(c.low_in)),
                    tuple(sorted(c.low_out)),
                    cast(Scheme, c.kernels),
                    c.reason,
                    cast(Exchange, c.exchange),
                )
                for c in self.convolutions
            ),
            rotations_of(self.rotations, where),
            tuple(Opaque(leaf.path, leaf.kind, leaf.reason, leaf.where) for leaf in self.leaves),
            self.inside,
        )
