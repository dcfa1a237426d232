#!/usr/bin/env bash
# Measures on a machine with one NVIDIA GPU and no network, part by part; docs/gpu.md says how.
#
#   benchmarks/gpu.sh wheels          where there is a network: fetch what that machine lacks
#   benchmarks/gpu.sh PART [...]      there: run one part; the same again goes on with what is left
#   benchmarks/gpu.sh table           one table of all results
#   benchmarks/gpu.sh pack | unpack   compiled programs into, or out of, files of 15 MB in $GPU_OUT
#   benchmarks/gpu.sh help            the parts, their minutes and options
#
# PYTHON (python3) has JAX, Flax, Optax, Orbax and, for comparisons, PyTorch. GPU_WHEELS (wheels)
# holds the wheels, GPU_OUT (runs/gpu) gets JSON and table.md, GPU_CACHE ($GPU_OUT/cache) keeps what
# was compiled, GPU_SITE (a folder of $GPU_CACHE) takes the packages, GPU_COMMIT names the commit
# where there is no .git.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
wheels=${GPU_WHEELS:-wheels}
export GPU_OUT=${GPU_OUT:-runs/gpu}
export GPU_CACHE=${GPU_CACHE:-$GPU_OUT/cache}
site=${GPU_SITE:-$GPU_CACHE/site}

case "${1:-help}" in
help | -h | --help | table)
    exec "$python" -m benchmarks.gpu "${@:-help}"
    ;;
wheels)
    exec "$python" -m benchmarks.gpu.wheels download "$wheels"
    ;;
pack)
    rm -f "$GPU_OUT"/compiled.tar.*
    tar -C "$GPU_CACHE" -cf - --exclude=./inputs --exclude=./site --exclude=./log.txt . |
        split -b 15000000 -d - "$GPU_OUT/compiled.tar."
    du -ch "$GPU_OUT"/compiled.tar.*
    ;;
unpack)
    mkdir -p "$GPU_CACHE"
    cat "$GPU_OUT"/compiled.tar.* | tar -C "$GPU_CACHE" -xf -
    ;;
*)
    if [ -d "$wheels" ]; then
        mkdir -p "$site"
        PYTHONPATH=$site "$python" -m benchmarks.gpu.wheels install "$wheels" "$site"
    fi
    export PYTHONPATH=$PWD:$site${PYTHONPATH:+:$PYTHONPATH}
    exec "$python" -m benchmarks.gpu "$@"
    ;;
esac
