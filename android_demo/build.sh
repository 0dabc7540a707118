#!/usr/bin/env bash
# Builds the app without an SDK or NDK, on Debian 12 with a JDK, clang and Maven: android_demo/build/dbf-benchmark.apk.
#
#   android_demo/build.sh
#
# Missing Debian packages are installed if run as root. Models are exported by the Python in PYTHON (default: python3)
# if it has this project's package, else by one in a new virtual environment. DBF_DATA_DIR may hold their data sets.
set -euo pipefail
build=$(realpath "$(dirname "$0")")/build
. "$(dirname "$0")/common.sh"
cd "$demo"
min_sdk=26
target_sdk=34
sources=src/main

section "System packages"
packages aapt dexdump zipalign apksigner openjdk-17-jdk-headless maven cmake make clang-16 lld-16 libclang-rt-16-dev binutils \
  unzip

section "Libraries"
fetch_checked provided "$libraries"
android=$(echo "$libraries"/android-all-*.jar)

section "Native library"
rm -rf "$build/lib" "$build/work"
./native.sh "$build"

section "Models"
find_python
"$python" bundle.py --output="$build/assets"

section "Resources"
work=$build/work
mkdir -p "$work/java" "$work/classes"
# Gradle's plugin wants the package in its own file.
sed 's/<manifest /&package="org.dbfkeras.demo" /' $sources/AndroidManifest.xml >"$work/AndroidManifest.xml"
aapt2 compile --dir $sources/res -o "$work/resources.zip"
# aapt2's warning about chunks of type 200: it is older than the framework and skips what it does not know.
aapt2 link -o "$work/resources.apk" -I "$android" --manifest "$work/AndroidManifest.xml" --java "$work/java" \
  --min-sdk-version $min_sdk --target-sdk-version $target_sdk --version-code 1 --version-name 0.1.0 \
  --debug-mode "$work/resources.zip"

section "Classes"
classes "$work/runtime" "$libraries"/*.aar
javac --release 8 -Xlint:all,-options,-classfile,-deprecation -Werror -classpath "$android:$work/runtime" -d "$work/classes" $(find $sources/java "$work/java" -name '*.java')
mkdir "$work/dex"
java -cp "$libraries"/r8-*.jar com.android.tools.r8.D8 --debug --min-api $min_sdk --lib "$android" \
  --lib "$JAVA_HOME" --output "$work/dex" $(find "$work/classes" "$work/runtime" -name '*.class')

section "Package"
for abi in "$build"/lib/*; do
  mkdir -p "$work/apk/lib"
  cp -r "$abi" "$work/apk/lib/"
  unzip -qoj "$libraries"/tensorflow-lite-[0-9]*.aar "jni/$(basename "$abi")/*.so" -d "$work/apk/lib/$(basename "$abi")"
done
cp -r "$build/assets" "$work/dex/"*.dex "$work/apk/"
cp "$work/resources.apk" "$work/unsigned.apk"
python3 package.py "$work/unsigned.apk" "$work/apk"
if [ ! -f "$build/debug.jks" ]; then
  keytool -genkeypair -keystore "$build/debug.jks" -storepass android -alias debug -keyalg RSA -keysize 2048 \
    -validity 10000 -dname "CN=Android Debug" >/dev/null 2>&1
fi
apksigner sign --ks "$build/debug.jks" --ks-pass pass:android --min-sdk-version $min_sdk \
  --out "$build/dbf-benchmark.apk" "$work/unsigned.apk"

section "Check"
./check_apk.sh "$build/dbf-benchmark.apk" "$build/assets"
ls -l "$build/dbf-benchmark.apk"
section "Done"
