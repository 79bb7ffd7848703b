#!/usr/bin/env bash
# The tests of the compiled kernels with the address and undefined-behaviour sanitizers in the extension, in a copy:
#     bash tests/sanitize.sh [PYTHON]
# Two tests are left out: one limits the address space, of which the sanitizer takes terabytes; one loads a library
# in a way that the sanitizer does not allow (RTLD_DEEPBIND).
set -euo pipefail
python=$(command -v "${1:-python}")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cd "$(dirname "$0")/.."
cp -r ms_longtail configs tests pyproject.toml setup.py README.md "$copy"
cd "$copy"
file=ms_longtail/kernels/_compiled$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
g++ -std=c++17 -O1 -g -fPIC -shared -ffp-contract=off -Wno-psabi -fvisibility=hidden -fno-omit-frame-pointer \
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -o "$file" ms_longtail/kernels/*.cpp -ldl -lpthread
export PYTHONPATH=$copy ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0 UBSAN_OPTIONS=print_stacktrace=1
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
"$python" -m pytest -q -s -p no:cacheprovider -k "not fewer_threads and not second_instance" \
    tests/test_kernels.py tests/test_norm.py tests/test_layout.py
