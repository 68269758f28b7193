"""`slt theory`: exact learning coefficients on the command line. It answers without loading JAX or NumPy.

`add_parser` mounts it on a parser of commands, `call` runs it, `main` is the whole of it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from slt.theory.coefficient import Coefficient, refusal

ABOUT = """\
The learning coefficient lambda and its multiplicity m of a model for which they are known exactly, with the source.

They say how the free energy grows, F_n = n L_n(w0) + lambda log n - (m-1) log log n + O(1), and where the local
learning coefficient tends, lam(t) = lambda - (m-1)/log t + .., t = n beta. A regular model of d parameters has d/2
and 1; a smaller lambda is a more degenerate optimum, which a Bayesian prefers at equal loss."""
EXAMPLES = """\
examples:
  slt theory deep-linear 10,8,8,10 --rank 4          # widths from input to output: lambda 39.5, m 3
  slt theory reduced-rank 7,4,6 --rank 1             # inputs, hidden, outputs
  slt theory newton 'x^4*y^2 + x^2*y^8' --prior 'x'  # K near 0, prior density ~ |x|
  slt theory square 'y^2 - x^3'                      # K = (y^2 - x^3)^2
  slt theory normal-crossing 2,1                     # K = w1^4 w2^2
  slt theory tanh 4 --json                           # {"lambda": 1.0, "m": 2, "source": "..."}
  slt theory tanh 4 --t 100,10000                    # and what they make of F and lam(t)
  slt theory newton --help                           # what a model needs and means

exit codes: 0 done, 2 bad input, with the reason (such as a polynomial of which no exact value is known)
"""
MODELS: dict[str, tuple[str, str]] = {
    "regular": ("D parameters that the data identify", "A regular model: lambda = D/2, m = 1, as in the BIC."),
    "squares": ("K = w1^2 + .. + wD^2", "A sum of D squares, in any number of dimensions: lambda = D/2, m = 1."),
    "normal-crossing": (
        "K = prod w_i^(2 k_i)",
        """\
K = prod w_i^(2 k_i) for whole numbers k_1,k_2,.. and a prior ~ prod |w_i|^h_i near 0: lambda is the least of
(h_i + 1)/(2 k_i), and m how often it occurs.

  slt theory normal-crossing 2,1 --prior 1,0""",
    ),
    "newton": (
        "a polynomial K >= 0 that is nondegenerate",
        """\
K >= 0 at the origin by its Newton polyhedron, in exact arithmetic. Write 'x^4*y^2 + x^2*y^8' or 'x^4y^2 + x^2y^8';
a variable is one letter, with a number if you like (w12). Refused, with the reason, if K is degenerate: (x - y)^2
vanishes off the axes, and the polyhedron knows nothing of that. A minus sign first needs a -- before it.""",
    ),
    "square": (
        "K = f^2 of a polynomial f",
        """\
K = f^2 at the origin: lambda = min(lct f, 1)/2 where f vanishes off the axes, lct by the Newton polyhedron of f.
Plane curves are of this kind: square 'y^2 - x^3' is the cusp, 5/12.""",
    ),
    "plane-curve": (
        "K = f^2 at a singular point of a curve",
        "smooth, node, figure-eight, cusp, tacnode, A4 or trefoil; or a number g for f = y^2 - x^g.",
    ),
    "deep-linear": (
        "a deep linear network",
        """\
y = W_L .. W_1 x with widths H_0,H_1,..,H_L from input to output, and a true matrix of rank R. lambda is the smallest
on the set of optima, that of the most singular ones (Aoyagi 2024).""",
    ),
    "reduced-rank": (
        "reduced-rank regression",
        """\
y = B A x with M inputs, H hidden units, N outputs and a true matrix of rank R (Aoyagi and Watanabe 2005); the same as
deep-linear with three widths.""",
    ),
    "tanh": (
        "a sum of H tanh units, truth 0",
        "sum_h a_h tanh(b_h x): one input, one output, H hidden units, truth 0.",
    ),
    "mixture": (
        "two Gaussians where one is enough",
        """\
(1-a) N(b1,1) + a N(b2,1) on the line, the truth N(0,1). 'one': b1 = 0 is fixed, b2 and a are free; 'both': b1, b2, a.
--weight-prior PHI: the prior of a is a^(PHI-1) near 0 and, for 'both', (1-a)^(PHI-1) near 1.""",
    ),
    "relu": (
        "a ReLU unit that is not needed",
        """\
a relu(b x + c), x in [-1, 1], truth 0. 'dead': 0 on all inputs; 'active': a = 0; 'no-bias': a relu(b x).""",
    ),
}


class _Parser(argparse.ArgumentParser):
    """Says what to do where an argument is missing because it looks like an option."""

    def error(self, message: str) -> Any:
        cure = "; before one that starts with a minus sign write --" if "are required" in message else ""
        super().error(message + cure)


def _list(number: Callable[[str], Any], example: str) -> Callable[[str], list[Any]]:
    def read(text: str) -> list[Any]:
        try:
            return [number(part) for part in text.split(",")]
        except (ValueError, ZeroDivisionError):
            raise argparse.ArgumentTypeError(f"{text!r}: numbers with commas between them, as {example}") from None

    return read


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `theory` and what stands under it to the subparsers of a command line; `call` takes the parsed arguments."""
    layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    summary = "exact learning coefficients, with their sources"
    top = commands.add_parser("theory", help=summary, description=ABOUT, epilog=EXAMPLES, **layout)
    models = top.add_subparsers(dest="model", metavar="MODEL", required=True, parser_class=_Parser)
    made = {
        name: models.add_parser(name, help=line, description=text, **layout) for name, (line, text) in MODELS.items()
    }
    made["regular"].add_argument("d", metavar="D", type=int, help="number of parameters")
    made["squares"].add_argument("d", metavar="D", type=int, help="number of squares")
    crossing = made["normal-crossing"]
    crossing.add_argument("k", metavar="K1,K2,..", type=_list(int, "2,1"), help="half the exponents of K")
    crossing.add_argument("--prior", metavar="H1,H2,..", type=_list(Fraction, "0,1/2"), help="prior exponents (0,0,..)")
    for name, what in (("newton", "K"), ("square", "f")):
        made[name].add_argument(
            "polynomial", metavar=what.upper(), help=f"{what}, a polynomial that is 0 at the origin"
        )
        made[name].add_argument("--prior", metavar="MONOMIAL", help="prior density near 0 up to a factor, as 'x*y^2'")
    made["plane-curve"].add_argument("curve", metavar="NAME", help="a name, or the number g of y^2 - x^g")
    for name, shape in (("deep-linear", "H0,H1,..,HL"), ("reduced-rank", "M,H,N")):
        made[name].add_argument("widths", metavar=shape, type=_list(int, "10,8,10"), help="widths from input to output")
        made[name].add_argument("--rank", type=int, default=0, metavar="R", help="rank of the true matrix (0)")
    made["tanh"].add_argument("hidden", metavar="H", type=int, help="number of hidden units")
    mixture = made["mixture"]
    mixture.add_argument(
        "means", choices=("one", "both"), nargs="?", default="both", help="which means are free (both)"
    )
    mixture.add_argument(
        "--weight-prior", type=Fraction, default=Fraction(1), metavar="PHI", help="prior exponent + 1 (1)"
    )
    made["relu"].add_argument("case", choices=("dead", "no-bias", "active"), nargs="?", default="dead", help="(dead)")
    times = "also F up to a constant, and lam(t), at these t = n beta, to leading orders"
    for each in made.values():
        each.add_argument("--json", action="store_true", help='{"lambda", "m", "source"} on standard output')
        each.add_argument("--t", type=_list(float, "100,1e4"), metavar="T,..", help=times)
    return top


def coefficient(args: argparse.Namespace) -> Coefficient:
    """The answer to a parsed command line."""
    from slt.theory import elementary, linear_networks, newton

    match args.model:
        case "regular":
            return elementary.regular(args.d)
        case "squares":
            return elementary.sum_of_squares(args.d)
        case "normal-crossing":
            return elementary.normal_crossing(args.k, args.prior)
        case "newton":
            return newton.newton(args.polynomial, args.prior)
        case "square":
            return newton.square(args.polynomial, args.prior)
        case "plane-curve":
            number = args.curve.isdecimal()
            return elementary.power_curve(int(args.curve)) if number else elementary.plane_curve(args.curve)
        case "deep-linear":
            return linear_networks.deep_linear(args.widths, args.rank)
        case "reduced-rank":
            if len(args.widths) != 3:
                raise refusal("widths", args.widths, "give three: inputs,hidden,outputs")
            return linear_networks.reduced_rank(*args.widths, rank=args.rank)
        case "tanh":
            return elementary.tanh(args.hidden)
        case "mixture":
            return elementary.mixture(args.means, args.weight_prior)
        case _:
            return elementary.relu(args.case)


def call(args: argparse.Namespace) -> int:
    """Print the answer; the exit code."""
    try:
        found = coefficient(args)
        rows = [] if args.t is None else _asymptotics(found, args.t)
    except ValueError as error:
        if not hasattr(error, "cure"):  # an InputError; its class is not imported here, for it would load JAX
            raise
        sys.stderr.write(f"slt theory {args.model}: {error}\n")
        return 2
    if args.json:
        shown: dict[str, Any] = {"lambda": found.lam, "m": found.m, "source": found.source}
        if rows:
            shown |= dict(zip(("t", "free_energy", "lam"), zip(*rows, strict=True), strict=True))
        sys.stdout.write(json.dumps(shown) + "\n")
        if found.note:
            sys.stderr.write(f"note: {found.note}\n")
        return 0
    sys.stdout.write(f"{found}\n")
    if rows:
        sys.stdout.write("\nleading orders, F without t L(w0) and its constant\n")
        sys.stdout.write(f"{'t':>12}  {'F':>12}  {'lam(t)':>12}\n")
        sys.stdout.writelines(f"{t:12g}  {f:12.6g}  {lam:12.6g}\n" for t, f, lam in rows)
    return 0


def _asymptotics(found: Coefficient, t: list[float]) -> list[tuple[float, float, float]]:
    from slt.theory import asymptotics

    f, lam = asymptotics.free_energy(found, t).tolist(), asymptotics.lam(found, t).tolist()
    return list(zip(t, f, lam, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """`slt theory` by itself, given the arguments after `theory`."""
    top = argparse.ArgumentParser(prog="slt", allow_abbrev=False)
    add_parser(top.add_subparsers(dest="command", required=True))
    return call(top.parse_args(["theory", *(sys.argv[1:] if argv is None else argv)]))


if __name__ == "__main__":
    sys.exit(main())
