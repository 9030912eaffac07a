#!/usr/bin/env bash
# All measurements that need a GPU, in three parts of at most nine minutes each.
#
#   scripts/gpu_session.sh 1 [OPTIONS]    tests on a GPU: every method compared with the CPU, its waits with docs/performance.md
#   scripts/gpu_session.sh 2 [OPTIONS]    time and memory of methods, a bare pass and other libraries
#   scripts/gpu_session.sh 3 [OPTIONS]    runs from JPEG files: 1, 8 and 16 workers, all evaluators, lower precision
#
#   --device cpu     instead of cuda
#   --small          a little of everything, to test the script
#   --out FOLDER     default: results/gpu
#
# Run it in a clone after `make setup`. Each part writes its results to one file as they come; the same command resumes
# a part that was stopped. The third part generates its 50,000 JPEGs in $TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '3,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
part=${1:-}; shift || usage
device=cuda small= out=results/gpu
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:?}; shift 2 ;;
        --out) out=${2:?}; shift 2 ;;
        --small) small=yes; shift ;;
        *) usage ;;
    esac
done
mkdir -p "$out"
python=.venv/bin/python
within() { timeout $((540 - SECONDS)) "$@"; }

case $part in
    1)
        tests=(tests/test_gpu.py tests/test_forward.py)
        [ -z "$small" ] || tests=(tests/test_forward.py)
        within "$python" -m pytest -n0 -q -m gpu -rA "${tests[@]}" | tee "$out/tests.txt"
        ;;
    2)
        options=(--networks resnet50 vgg16 --batch-size 128 --repeats 5)
        [ -z "$small" ] || options=(--networks googlenet --batch-size 1 --repeats 1 --only eigencam --no-memory)
        within "$python" scripts/benchmark_methods.py --device "$device" "${options[@]}" --anyway --resume --out "$out/cost_of_methods.csv"
        ;;
    3)
        images=50000 model=resnet50 some=10000 few=2000 weights=model.weights=null  # speed does not depend on them
        [ -z "$small" ] || { images=3 model=scenes_resnet weights=target=predicted; }
        jpegs=${TMPDIR:-/tmp}/eigencam-jpegs-$images
        all=localization,localization_cam,localization_fong_energy,localization_fong_mean,localization_fong_range
        all=$all,maxboxacc,maxboxacc_plain,maxboxacc_v2,pointing,energy,proposals
        measure() {
            within "$python" scripts/benchmark_run.py --generate "$images" --keep "$jpegs" --model "$model" --repeats 1 --anyway \
                --batch-size auto --device "$device" --resume --out "$out/speed_of_runs.csv" $weights "$@"
        }
        measure workers=$([ -z "$small" ] && echo 16 || echo 0)
        [ -z "$small" ] || exit 0
        measure workers=8 dataset.count=$some
        measure workers=1 dataset.count=$few
        measure workers=16 dataset.count=$few --evaluators "$all"
        measure workers=16 dataset.count=$some dtype=tf32
        measure workers=16 dataset.count=$some dtype=bfloat16
        measure workers=16 dataset.count=$some dtype=autocast channels_last=true
        ;;
    *) usage ;;
esac
