#!/usr/bin/env bash
# A quarter of an hour on a GPU: see `python -m benchmarks.gpu_session --help`, whose arguments this takes.
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m benchmarks.gpu_session "$@"
