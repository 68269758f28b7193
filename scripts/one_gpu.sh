#!/bin/bash
# One run on one GPU of this machine.
# Usage:  scripts/one_gpu.sh superposition/demo grid.n='[100,1000]' --out runs/mine
# Needs:  pip install 'slt[gpu]'. CUDA_VISIBLE_DEVICES chooses the GPU; the same command again goes on where it stopped.
set -euo pipefail
: "${CUDA_VISIBLE_DEVICES:=0}"
export CUDA_VISIBLE_DEVICES
exec slt run "$@" --preemptible
