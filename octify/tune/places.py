"""Where an unfinished run keeps its checkpoint. No torch here: the command line looks before it imports."""

from __future__ import annotations

import shutil
from pathlib import Path

CHECKPOINT = "tune-checkpoint"
STATE = "state.json"


def has_checkpoint(store: Path) -> bool:
    """Whether there is a checkpoint in the folder ``store``."""
    return (store / STATE).is_file()


def remove(store: Path) -> None:
    """Delete the checkpoint of a run that is finished, or begun anew."""
    shutil.rmtree(store, ignore_errors=True)
