#!/bin/bash
# One run over all hosts of a TPU pod slice: start it on every worker at once, results in a bucket that all can reach.
# Usage:  gcloud compute tpus tpu-vm ssh NAME --worker=all --command="bash tpu_pod.sh superposition/demo --out gs://bucket/mine"
# Needs:  pip install slt 'jax[tpu]' gcsfs on every worker. The same command again goes on where it stopped.
set -euo pipefail
exec slt run "$@" distributed=auto --preemptible
