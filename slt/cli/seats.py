"""Which process of a run over several processes this one is: as told, or as a scheduler says."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from slt.typing import InputError


class Seat(NamedTuple):
    """A process of a run: the coordinator's host and port, its own rank, how many there are."""

    host: str
    port: int
    rank: int
    size: int


def seat(text: str, environment: Mapping[str, str] = os.environ) -> Seat:
    """What distributed=HOST:PORT,RANK,COUNT says; "auto" asks SLURM's variables, or those of a TPU pod."""
    match = re.fullmatch(r"(?P<host>[^:,\s]+):(?P<port>\d+),(?P<rank>\d+),(?P<count>\d+)", text)
    if match is not None:
        found = Seat(match["host"], int(match["port"]), int(match["rank"]), int(match["count"]))
    elif text == "auto" and "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment:
        port = 20000 + 2 * (int(environment.get("SLURM_JOB_ID", "0")) % 10000)
        host = _first_host(environment["SLURM_STEP_NODELIST"])
        found = Seat(host, port, int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"]))
    elif text == "auto" and "TPU_WORKER_HOSTNAMES" in environment:
        hosts = environment["TPU_WORKER_HOSTNAMES"].split(",")
        found = Seat(hosts[0], 8476, int(environment["TPU_WORKER_ID"]), len(hosts))
    else:
        cure = "found neither SLURM (start by srun) nor a TPU pod: give" if text == "auto" else "write"
        raise InputError("distributed", text, f"{cure} HOST:PORT,RANK,COUNT, such as node1:9000,0,2")
    if not 0 <= found.rank < found.size or not 1024 <= found.port < 65535:
        raise InputError("distributed", text, "the rank counts from 0 to below COUNT, the port from 1024 to 65534")
    return found


def _first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes: "gpu[003-005,9],x1" gives gpu003."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    return nodes if match is None else match[1] + (match[2] or "")
