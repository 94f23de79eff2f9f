#!/usr/bin/env bash
# Owns: the tests of the AVX-512 kernels on a machine without AVX-512: their source, compiled for AVX2 with the intrinsics of
# emulate_avx512.h. They prove bits, never speed. Needs libsimde-dev (SIMD Everywhere), cmake and ninja. Builds in a folder of its
# own (BUILD, or build/emulated) and leaves the installed module alone.
#
#   PYTHON=.venv/bin/python csrc/emulate_avx512.sh -q tests/ops      the arguments are pytest's
#
# CMake calls this file too, in front of every compiler command (AS_COMPILER).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [[ ${AS_COMPILER-} ]]; then
  command=()
  for word; do [[ $word == -mavx512* || $word == -mprefer-vector-width=512 ]] || command+=("$word"); done
  case " $* " in
    *" -DSLIP_AVX512 "*) command+=(-O1 -include "$here/emulate_avx512.h" -Wno-psabi) ;;  # -O3 takes three minutes
    *) command+=('-D__builtin_cpu_supports(feature)=1') ;;  # so that the set is offered
  esac
  exec "${command[@]}"
fi

python=$(command -v "${PYTHON:-python3}")
build=${BUILD:-$here/../build/emulated}
mkdir -p "$build"
export AS_COMPILER=1 CMAKE_CXX_COMPILER_LAUNCHER="$here/emulate_avx512.sh"
{ cmake -S "$here/.." -B "$build" -G Ninja -DPython_EXECUTABLE="$python" && cmake --build "$build"; } >"$build/log" 2>&1 || {
  cat "$build/log"
  exit 1
}
unset AS_COMPILER CMAKE_CXX_COMPILER_LAUNCHER

cd "$here/.."
PYTHONPATH="$here/../src" "$python" - "$build" "$@" <<'PYTHON'
import importlib.util
import pathlib
import sys

import pytest

[path] = pathlib.Path(sys.argv[1]).glob("_native*.so")
spec = importlib.util.spec_from_file_location("slipstream._native", path)
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert module.isas() == ["avx512", "avx2", "portable"], module.isas()
sys.exit(pytest.main(sys.argv[2:]))
PYTHON
