#!/usr/bin/env bash
# Builds libdbf_op.so for Android without an NDK and checks what a phone's loader and 16 KiB pages ask of it.
#
#   android_demo/native.sh BUILD_FOLDER     # writes BUILD_FOLDER/lib/{arm64-v8a,x86_64}/libdbf_op.so
set -euo pipefail
build=$(mkdir -p "$1" && realpath "$1")
cd "$(dirname "$0")"
jdk=$(dirname "$(dirname "$(realpath "$(command -v javac)")")")

fail() {
  echo "error: $1" >&2
  exit 1
}

# check LIBRARY MACHINE
check() {
  local needed aligned exported
  readelf -h "$1" | grep -q "Machine:.*$2" || fail "$1 is not for $2"
  needed=$(readelf -d "$1" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | sort | tr '\n' ' ')
  [ "$needed" = "libc.so libdl.so libm.so " ] || fail "$1 needs '$needed'; only libc.so, libdl.so and libm.so are wanted"
  aligned=$(readelf -lW "$1" | awk '$1 == "LOAD" {print $NF}' | sort -u)
  [ "$aligned" = 0x4000 ] || fail "segments of $1 are aligned to $aligned; wanted 0x4000"
  ! readelf -lW "$1" | grep GNU_STACK | grep -q E || fail "$1 wants an executable stack"
  exported=$(readelf --dyn-syms -W "$1" | awk '$5 == "GLOBAL" && $7 != "UND" {print $8}' |
    grep -vE '^(Java_org_dbfkeras_|tflite_plugin_|dbf_|LiteRtRegisterGpuAccelerator$)') || true
  [ -z "$exported" ] || fail "$1 exports $exported, which should be hidden"
  [ "$(readelf --dyn-syms -W "$1" | grep -cE 'Java_org_dbfkeras_DbfDelegate_(create|destroy|memory)|tflite_plugin_')" = 5 ] ||
    fail "$1 does not export the delegate"
}

# library ABI ARCHITECTURE MACHINE
library() {
  local stubs=$build/stubs/$2 out=$build/cmake/$2
  mkdir -p "$stubs" "$build/lib/$1"
  for name in libc libdl libm; do
    sed 's/.*/void &(void) {}/' "sysroot/$name.symbols" |
      clang-16 "--target=$2-linux-android21" --ld-path=/usr/bin/ld.lld-16 -nostdlib -fno-builtin -w -shared -fPIC \
        -Wl,-soname,"$name.so" -o "$stubs/$name.so" -x c -
  done
  CFLAGS="-isystem $jdk/include -isystem $jdk/include/linux" cmake -S src/main/cpp -B "$out" \
    -DCMAKE_TOOLCHAIN_FILE="$PWD/sysroot/toolchain.cmake" -DDBF_ARCHITECTURE="$2" \
    -DDBF_STUBS="$stubs" >/dev/null
  cmake --build "$out" --target dbf_op --parallel "$(nproc)" >/dev/null
  check "$out/export/libdbf_op.so" "$3"
  cp "$out/export/libdbf_op.so" "$build/lib/$1/"
}

library arm64-v8a aarch64 AArch64
library x86_64 x86_64 X86-64
ls -l "$build"/lib/*/libdbf_op.so
