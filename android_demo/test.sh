#!/usr/bin/env bash
# Tests the app that build.sh built: its logic and screens on this machine's JVM, with the very libraries that a phone
# runs (TensorFlow Lite's for Android and ours, over stand-ins for Android's libc), and its models on an emulated ARM.
#
#   android_demo/test.sh
#
# DBF_ARM64_ROOT may name what .ci/arm64_root made; without it, build/arm64 is made.
set -euo pipefail
build=$(realpath "$(dirname "$0")")/build
. "$(dirname "$0")/common.sh"
cd "$demo"
[ -f "$build/dbf-benchmark.apk" ] || fail "run android_demo/build.sh first"
work=$build/test
rm -rf "$work"
mkdir -p "$work"

section "System packages"
packages gcc libc6-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static python3-pip

section "Libraries"
fetch_checked test "$build/test_libraries"

# stand_ins FOLDER COMPILER SOURCE: libraries of Android's names that pass everything on to this system's.
stand_ins() {
  mkdir -p "$1"
  "$2" -O1 -fPIC -shared -Wl,-soname,libc.so -o "$1/libc.so" -x c "$3" -Wl,--no-as-needed -lc -lm
  for name in libm libdl liblog; do
    "$2" -fPIC -shared -Wl,-soname,$name.so -o "$1/$name.so" -x c /dev/null -Wl,--no-as-needed -lc -lm
  done
}

section "Tests in Java"
stand_ins "$work/bionic" gcc src/test/cpp/bionic_on_glibc.c
mkdir -p "$work/jni"
cp "$build/lib/x86_64/libdbf_op.so" "$work/jni/"
python3 src/test/cpp/unversion.py "$build/work/apk/lib/x86_64/libtensorflowlite_jni.so" "$work/jni/libtensorflowlite_jni.so"
# Of LiteRT 2 the names of the functions that an accelerator is made of.
for name in CreateAccelerator DestroyAccelerator RegisterAccelerator SetAcceleratorGetName SetAcceleratorGetVersion \
  SetAcceleratorGetHardwareSupport SetIsAcceleratorDelegateResponsibleForJitCompilation SetDelegateFunction WrapDelegate \
  UnwrapDelegate DestroyDelegateWrapper; do echo "int LiteRt$name(void) { return 0; }"; done |
  gcc -fPIC -shared -Wl,-soname,libLiteRt.so -o "$work/jni/libLiteRt.so" -x c -
gcc -fPIC -shared -o "$work/jni/liblitert_jni.so" -x c /dev/null
classes "$work/runtime" "$build/test_libraries"/{monitor,espresso}*.aar
tests=$work/classes
mkdir -p "$tests/com/android/tools"
cat >"$tests/com/android/tools/test_config.properties" <<EOF
android_merged_manifest=$build/work/AndroidManifest.xml
android_merged_assets=$build/assets
android_resource_apk=$build/dbf-benchmark.apk
android_custom_package=org.dbfkeras.demo
EOF
path=$tests:$build/work/classes:$build/work/runtime:$work/runtime
path=$path:$(printf '%s:' "$build/test_libraries"/*.jar)$(echo "$build/libraries"/android-all-*.jar)
javac --release 11 -Xlint:all,-options,-classfile,-deprecation,-processing,-try -Werror -proc:none -classpath "$path" \
  -d "$tests" $(find src/test/java -name '*.java')
# A process for each class, as a native library belongs to the first class loader that loads it.
for file in $(cd src/test/java && find . -name '*Test.java' | sort); do
  name=$(echo "$file" | sed 's|^\./||; s|/|.|g; s|\.java$||')
  LD_PRELOAD=$work/bionic/libc.so LD_LIBRARY_PATH=$work/bionic timeout 600 java -Xmx2g -XX:TieredStopAtLevel=1 \
    --add-opens=java.base/java.io=ALL-UNNAMED -Djava.library.path="$work/jni" -Ddbf.assets="$build/assets" \
    -Ddbf.output="$work" -Drobolectric.offline=true -Drobolectric.dependency.dir="$build/test_libraries" \
    -classpath "$path" org.junit.runner.JUnitCore "$name" >"$work/$name.log" 2>&1 ||
    { grep -v '^VERBOSE\|^tflite: Replacing' "$work/$name.log"; fail "$name failed; see $work/$name.log"; }
  echo "$name: $(grep '^OK' "$work/$name.log")"
done

section "Models on 64-bit ARM"
root=${DBF_ARM64_ROOT:-$build/arm64}
../.ci/arm64_root "$root"
stand_ins "$work/bionic_arm64" aarch64-linux-gnu-gcc /dev/null
# check CPU [MODE]
check() {
  qemu-aarch64-static -L "$root" -cpu "$1" -E PYTHONPATH="$root/site" -E LD_LIBRARY_PATH="$work/bionic_arm64" \
    "$root/usr/bin/python3.11" -P src/test/python/check_models.py "$build/assets" "$build/lib/arm64-v8a/libdbf_op.so" \
    "${@:2}" >"$work/$1.log" 2>&1
}
check cortex-a76 &
a76=$!
check cortex-a53 onthefly & # without dot products of int8, which the op then does without
a53=$!
# checked CPU PROCESS
checked() {
  local status=0
  wait "$2" || status=$?
  echo "$1:"
  [ "$status" = 0 ] || { cat "$work/$1.log"; fail "the models do not give the expected outputs on $1"; }
  grep '^ok' "$work/$1.log"
}
checked cortex-a76 $a76
checked cortex-a53 $a53

section "Results of the app beside those of this machine"
find_python
"$python" -m dbf_keras.benchmark "$build"/assets/digits_{explicit,onthefly,folded}.tflite "$work/phone.json" --runs=30 \
  --json="$work/desktop.json" --html="$work/both.html"
"$python" - "$work/desktop.json" "$work/phone.json" <<'PYTHON'
import json, sys

desktop, phone = (json.load(open(path)) for path in sys.argv[1:])
assert desktop.keys() == phone.keys(), (desktop.keys(), phone.keys())
assert desktop["models"][0].keys() == phone["models"][0].keys()
assert desktop["settings"].keys() <= phone["settings"].keys()
PYTHON

section "Done"
