#!/usr/bin/env bash
# The one prepared call on a lent GPU machine, from the repository's root: bash benchmarks/gpu_call.sh [options of
# python -m benchmarks gpu_call]. Wheels that the machine lacks lie in .whl (benchmarks/README.md says how they get there).
set -eu
if ! python3 -c 'import braceexpand, msgspec, webdataset, xxhash' 2> /dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    PYTHONPATH="/tmp/site:${PYTHONPATH:-}"
fi
export PYTHONPATH="$PWD:$PWD/kernels:${PYTHONPATH:-}"
export PYTHONUNBUFFERED=1 TRITON_DEFAULT_FP_FUSION=1 CUBLAS_WORKSPACE_CONFIG=:4096:8
python3 setup.py -q build_ext --inplace
exec python3 -m benchmarks gpu_call --out "${OUT:-gpu_call_out}" "$@"
