"""`slt report`: a run as one HTML file, to read and to explore without slt."""

import argparse

from rich.console import Console

from slt import config, results
from slt.cli.sampling import DONE, INCOMPLETE, output, pictures, unfit


def report(args: argparse.Namespace, messages: Console) -> int:
    """Write the report of a run, finished or not; 3 where it is not."""
    from slt import report as pages  # plotly is not needed for anything else

    run, allow = results.load(args.run), config.allowed(args.allow_import)
    out = run.path / "report.html" if args.out is None else results.place(args.out)
    with messages.status("drawing and writing"):
        drawn, failed = pictures(run, config.structured(run.config), allow)
        path = pages.write(run, drawn, out, allow_import=allow)
    output().print(f"report: {path}", markup=False, soft_wrap=True)
    if failed is not None:
        return unfit(messages, failed)
    return DONE if run.complete else INCOMPLETE
