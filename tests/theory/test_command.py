"""`slt theory`: what a person reads and what a program reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slt.theory import asymptotics, elementary
from slt.theory.command import MODELS, main

ROOT = Path(__file__).resolve().parents[2]

ANSWERS = [
    ("deep-linear 10,8,8,10 --rank 4", 39.5, 3),
    ("reduced-rank 7,4,6 --rank 1", 13.0, 1),
    ("newton x^4*y^2+x^2*y^8 --prior x", 0.5, 2),
    ("newton x^4+y^6", 5 / 12, 1),
    ("square y^2-x^3", 5 / 12, 1),
    ("normal-crossing 2,1", 0.25, 1),
    ("normal-crossing 2,1 --prior 1,0", 0.5, 2),
    ("normal-crossing 1 --prior 1/3", 2 / 3, 1),
    ("plane-curve tacnode", 0.375, 1),
    ("plane-curve 5", 0.35, 1),
    ("tanh 4", 1.0, 2),
    ("regular 9", 4.5, 1),
    ("squares 3", 1.5, 1),
    ("mixture one", 0.5, 2),
    ("mixture", 0.75, 1),
    ("mixture both --weight-prior 1/2", 0.75, 2),
    ("relu", 0.0, 1),
    ("relu no-bias", 0.5, 2),
]


@pytest.mark.parametrize("line,lam,m", ANSWERS)
def test_answers(capsys, line, lam, m):
    assert main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"lambda", "m", "source"}
    assert (found["lambda"], found["m"]) == (lam, m)
    assert main(line.split()) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"lambda  {lam:.10g}")
    assert f"\nm       {m}\nsource  {found['source']}\n" in shown


def test_every_model_answers_and_explains_itself(capsys):
    assert {line.split()[0] for line, *_ in ANSWERS} == set(MODELS)
    for argv in (["--help"], *([name, "--help"] for name in MODELS)):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        assert stopped.value.code == 0
        assert "usage: slt theory" in capsys.readouterr().out


def test_asymptotics(capsys):
    assert main(["tanh", "4", "--t", "100,1e4", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["t"] == [100.0, 10000.0]
    assert found["free_energy"] == asymptotics.free_energy(elementary.tanh(4), [100.0, 1e4]).tolist()
    assert found["lam"] == asymptotics.lam(elementary.tanh(4), [100.0, 1e4]).tolist()
    assert "truth 0" in captured.err
    assert main(["tanh", "4", "--t", "100"]) == 0
    assert "0.782853" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv,why",
    [
        (["newton", "(x-y)^2"], "slt theory newton: K = '(x-y)^2': degenerate"),
        (["newton", "__import__('os')"], "import is no polynomial"),
        (["newton", "x;y"], "cannot read ';y'"),
        (["deep-linear", "3,2", "--rank", "3"], "slt theory deep-linear: rank = 3: give at most 2"),
        (["reduced-rank", "3,2"], "give three"),
        (["plane-curve", "knot"], "give one of smooth"),
        (["mixture", "--weight-prior", "-1"], "weight_prior"),
        (["tanh", "4", "--t", "0.5"], "numbers > 1"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, why):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert why in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("argv", [["deep-linear", "3,a"], ["normal-crossing", "1", "--prior", "1/0"], ["nothing"], []])
def test_bad_usage(capsys, argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert "usage: slt theory" in capsys.readouterr().err


def test_a_minus_sign_first_is_told_of(capsys):
    with pytest.raises(SystemExit):
        main(["newton", "-x^2"])
    assert "starts with a minus sign write --" in capsys.readouterr().err


def test_it_starts_at_once():
    """Neither JAX nor NumPy is loaded for an answer."""
    code = (
        "import sys; from slt.theory.command import main; main(['newton', 'x^2-x*y+y^2', '--json']); "
        "print(sorted({'jax', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
