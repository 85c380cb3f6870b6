"""The errors octify shows a user: what went wrong, where, why, and what to type.

The command line prints them in that order and leaves with ``exit_code``; the library
raises them as ordinary exceptions. Nothing here imports torch.
"""

from __future__ import annotations


class OctifyError(Exception):
    """Error of the user or unusable input, described in one message.

    Parameters
    ----------
    what:
        One sentence naming the problem.
    where:
        The place: a module path, or a user's ``file:line``.
    why:
        The cause, where it is clear.
    hint:
        What to type, or to change, to get on.
    """

    exit_code = 2

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, hint: str | None = None
    ) -> None:
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  where: {self.where}"] if self.where else []
        lines += [f"  why:   {self.why}"] if self.why else []
        lines += [f"  try:   {self.hint}"] if self.hint else []
        return "\n".join(lines)


class SourceError(OctifyError):
    """The model, its weights or its example inputs could not be loaded."""


class TraceError(OctifyError):
    """The model could not be traced, or rejects the example inputs."""


class InputSizeError(OctifyError):
    """A converted model is run at a size for which its own code would take another way."""


class RuleError(OctifyError):
    """A rule file, or an ``--exclude``, is wrong or matches nothing."""


class PlanError(OctifyError):
    """A plan does not fit the model, or contradicts itself."""


class ExportError(OctifyError):
    """An export could not be made."""


class CheckFailed(OctifyError):  # noqa: N818 - it is a verdict, not an error
    """octify ran, and a requested check failed (parity, nothing to convert)."""

    exit_code = 1
