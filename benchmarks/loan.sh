#!/usr/bin/env bash
# What a loan of a GPU is for, as two commands (docs/gpu.md, "The next loan"); run in the repository's root on that machine:
#
#     SLIPSTREAM_COMMIT=... bash benchmarks/loan.sh right     is everything right? tests and checks all at a time, each into a file of its own
#     SLIPSTREAM_COMMIT=... bash benchmarks/loan.sh fast      how fast is it? one case after the other: tables first, then models with them
#
# Writes to $OUT: summary.txt, and results.tgz with everything. SECONDS_RIGHT, SECONDS_TUNE and SECONDS_MODELS bound the time; DRY=1 tries
# the script without a GPU, on tiny shapes.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${OUT:?a folder for what comes back}"
export PYTHONUNBUFFERED=1 PYTHONPATH=src
work=$(mktemp -d)
dry=${DRY:+--dry-run}

# run NAME SECONDS COMMAND...: its output into NAME.txt, its last line and status into the summary
run() {
    local name=$1 limit=$2
    shift 2
    timeout "$limit" "$@" >"$work/$name.txt" 2>&1
    echo "$name: status $?: $(tail -n 1 "$work/$name.txt" | cut -c1-300)" >>"$work/summary.txt"
}

suite() { # suite NAME SECONDS CASE...
    local name=$1 limit=$2
    shift 2
    run "$name" $((limit + 20)) python3 -m slipstream.bench gpu-suite --only "$@" --seconds "$limit" --out "$work/$name" $dry
    sed -n '/^## What it says/,/^| /p' "$work/$name/table.md" | grep '^\*' | cut -c1-240 | head -n 20 >>"$work/summary.txt"
}

case ${1:-} in
right)
    limit=${SECONDS_RIGHT:-200}
    if [ -z "$dry" ]; then
        python3 -m pip install -q --no-index --no-build-isolation --no-deps --target "$work/built" . && cp "$work"/built/slipstream/_native*.so src/slipstream/
        rm -rf "$work/built"
        run promises "$limit" python3 -m pytest -o addopts= -q -m gpu tests/promises &
        run engine "$limit" python3 -m pytest -q --device cuda tests/engine tests/worker &
    fi
    suite ops "$limit" op_correctness &
    suite text "$limit" same_text &
    suite machine "$limit" environment &
    wait
    ;;
fast)
    run tune $((${SECONDS_TUNE:-380} + 20)) python3 -m slipstream.bench tune --seconds "${SECONDS_TUNE:-380}" --out "$work/tuned.json" $dry
    grep -e '->' "$work/tune.txt" | cut -c1-240 >>"$work/summary.txt"
    if [ -z "$dry" ] && [ -s "$work/tuned.json" ]; then
        cp "$work/tuned.json" src/slipstream/ops/triton/tuned/h200.json
    fi
    cp -r "${TMPDIR:-/tmp}"/slipstream-tune-* "$work/" 2>/dev/null
    suite models "${SECONDS_MODELS:-150}" end_to_end
    ;;
*)
    echo "usage: bash benchmarks/loan.sh right | fast" >&2
    exit 2
    ;;
esac
cat "$work/summary.txt"
cp "$work/summary.txt" "$OUT/" && tar czf "$OUT/results.tgz" -C "$work" .
rm -rf "$work"
