"""A model that ends the program is refused: the caller's program goes on."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

import octify
from octify.errors import OctifyError
from octify.storage.hold import Terminated

X = torch.zeros(1, 3, 8, 8)


class Ending(nn.Module):
    """Ends the program always, or for an even batch, which tracing does not see at once."""

    def __init__(self, error: BaseException | None, *, late: bool = False) -> None:
        super().__init__()
        self.conv, self.error, self.late = nn.Conv2d(3, 8, 1), error, late

    def forward(self, x: Tensor) -> Tensor:
        if self.late and len(x) % 2:
            return self.conv(x)
        if self.error is not None:
            raise self.error
        sys.exit("no more data")


@pytest.mark.parametrize("late", [False, True])
def test_an_exit_is_an_error_of_the_model(late: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Ending(None, late=late)).eval()
    with pytest.raises(OctifyError) as caught:
        octify.convert(model, X[:1].repeat(2, 1, 1, 1))
    shown = str(caught.value)
    assert "ends the program" in shown and "test_exits.py:" in shown and "no more data" in shown


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated(143)], ids=["Ctrl-C", "SIGTERM"])
def test_what_the_user_asked_for_is_passed_on(error: BaseException) -> None:
    with pytest.raises(type(error)):
        octify.convert(nn.Sequential(Ending(error)).eval(), X)
