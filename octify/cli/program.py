"""``octify export DIR FILE.pt2``: a PyTorch program, and how its comparison with the model is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octify.cli.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    from octify.export.program import ProgramResult

SUFFIX = ".pt2"


@dataclass(frozen=True)
class Program:
    """A program in its place, and how it compared."""

    result: ProgramResult

    def to_dict(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self.result) | {
            "path": str(self.result.path),
            "batch_sizes": list(self.result.batch_sizes),
        }

    def lines(self) -> list[str]:
        """As a person reads it."""
        result = self.result
        sizes = ", ".join(map(str, result.batch_sizes))
        return [
            f"wrote {result.path}: {result.bytes:,} bytes; torch.export.load reads it, without octify",
            f"the program against the model, batch sizes {sizes}: "
            f"maximum error {result.max_abs_error:.3g} (allowed {result.tolerance:.3g})",
        ]


def write_program(
    run: Session, model: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, dynamic_batch: bool = True
) -> Program:
    """Export ``model`` to ``path``; CheckFailed, and no file, when the program disagrees with it."""
    from octify.export import export_program

    run.progress(f"exporting {path.name}")
    return Program(export_program(model, inputs, path, dynamic_batch=dynamic_batch))
