"""`slt report`: a run as one HTML file, to read and to explore without slt."""

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console

from slt import config, results
from slt.cli.sampling import DONE, INCOMPLETE, output


def report(args: argparse.Namespace, messages: Console) -> int:
    """Write the report of a run, finished or not; 3 where it is not."""
    from slt import plots  # matplotlib and plotly are not needed for anything else
    from slt import report as pages

    run, allow = results.load(args.run), config.allowed(args.allow_import)
    made = config.structured(run.config)
    home = config.experiment(made, allow)
    figures = plots.default_figures if home is None else home.figures
    out = run.path / "report.html" if args.out is None else Path(args.out)
    with messages.status("drawing and writing"):
        drawn = figures(dataclasses.replace(run, config=made))
        path = pages.write(run, drawn, out, allow_import=allow)
    output().print(f"report: {path}", markup=False, soft_wrap=True)
    return DONE if run.complete else INCOMPLETE
