"""``octify inspect``: show what a conversion would do, and what it would leave alone and why."""

from __future__ import annotations

from octify.cli.loading import check_model, check_policy, describe, load
from octify.cli.options.shared import (
    AlphaOption,
    DebugOption,
    ExcludeOption,
    InputOption,
    JsonOption,
    Kernels,
    KernelsOption,
    ModelArgument,
    QuietOption,
    RulesOption,
    VerboseOption,
    WeightsOption,
)
from octify.cli.outcome import require_converted
from octify.cli.session import session


def inspect(
    model: ModelArgument,
    alpha: AlphaOption = 0.5,
    rules: RulesOption = "default",
    kernels: KernelsOption = Kernels.paper,
    exclude: ExcludeOption = None,
    weights: WeightsOption = None,
    input: InputOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what would be converted, what would not and why, and the costs; write nothing.

    Running a model file runs its code: give only files you trust.

    \b
    Examples:
      octify inspect model.py
      octify inspect torchvision:resnet50 --rules paper --alpha 0.25 --json
    """
    with session(json=json, quiet=quiet, verbose=verbose, debug=debug) as run:
        check_model(model, weights, input)
        check_policy(alpha, rules)
        source = load(run, model, weights, input)

        from octify import api

        # What `octify.inspect` does, telling the progress.
        report = api.convert(
            source.model,
            source.example_inputs,
            alpha=alpha,
            rules=rules,
            kernels=kernels.value,
            exclude=tuple(exclude or ()),
            progress=run.progress,
        ).report
        run.show(report)
        run.warn(*report.warnings)
        run.partial = report.to_dict() | {"source": describe(source)}
        require_converted(report)
        run.answer(run.partial)
