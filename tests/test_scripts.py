"""The launchers people copy: shell that parses, a comment of three lines, commands that slt has, run by stand-ins."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from slt import cli

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "scripts").glob("*.s*"))
STAND_IN = '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\n[ "$1" = slt ] && shift\necho "$@"\n'


def test_there_is_one_for_each_place():
    names = {path.name for path in SCRIPTS}
    assert {"one_gpu.sh", "eight_gpus.sbatch", "array.sbatch", "nodes.sbatch", "tpu_pod.sh"} <= names


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_launcher_says_a_command_that_is_there(path, tmp_path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("#!")
    comment = [line for line in lines[1:4] if line.startswith("# ")]
    assert len(comment) == 3
    assert not lines[4].startswith("# ")
    assert os.access(path, os.X_OK)
    for name in ("slt", "srun"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    usage = next(line for line in comment if "Usage" in line)
    given = shlex.split(re.search(r"superposition/demo[^\"]*", usage)[0])
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(["bash", path, *given], env=environment, capture_output=True, text=True, check=True)
    args = cli.parse(shlex.split(done.stdout))
    assert args.command in ("run", "sweep")
    assert args.out is not None
