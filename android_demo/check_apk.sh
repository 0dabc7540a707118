#!/usr/bin/env bash
# Checks a built app: check_apk.sh APK ASSETS
set -euo pipefail
apk=$(realpath "$1") assets=$2
build=$(dirname "$apk")
. "$(dirname "$0")/common.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

apksigner verify --min-sdk-version 26 "$apk" || fail "$apk is not signed as Android wants it"
aapt dump badging "$apk" >"$work/badging"
for line in "package: name='org.dbfkeras.demo'" "sdkVersion:'26'" "targetSdkVersion:'34'" \
  "launchable-activity: name='org.dbfkeras.demo.MainActivity'" "native-code: 'arm64-v8a' 'x86_64'"; do
  grep -q "^$line" "$work/badging" || fail "aapt dump badging does not say $line"
done

unzip -qo "$apk" -d "$work/apk"
# The dex files can be read, and have the classes that the manifest and JNI name.
dexdump "$apk" >"$work/dexdump" || fail "the dex files of $apk are damaged"
for class in demo/MainActivity demo/ResultsActivity demo/ReportProvider demo/BenchmarkInstrumentation DbfDelegate; do
  grep -q "Class descriptor *: 'Lorg/dbfkeras/$class;'" "$work/dexdump" || fail "the dex files lack $class"
done

unzip -Zv "$apk" >/dev/null || fail "$apk is a damaged zip file"
unzip -v "$apk" | awk 'NF >= 8 {print $8, $2}' >"$work/methods"
stored() { grep -qx "$1 Stored" "$work/methods" || fail "$1 is missing in the app, or compressed"; }
for abi in arm64-v8a x86_64; do
  for library in libdbf_op.so libtensorflowlite_jni.so; do stored "lib/$abi/$library"; done
done
for file in "$assets"/*; do
  stored "assets/$(basename "$file")"
  cmp "$file" "$work/apk/assets/$(basename "$file")"
done
# Libraries are mapped from the file itself, so they start on pages, of 16 KiB too.
zipalign -c 4 "$apk" || fail "$apk is not aligned"
python3 - "$apk" <<'PYTHON'
import struct, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as archive, open(sys.argv[1], "rb") as file:
    for entry in archive.infolist():
        if entry.filename.endswith((".so", ".tflite")):
            file.seek(entry.header_offset + 26)
            start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            if start % 16384:
                sys.exit(f"error: {entry.filename} starts at {start}, which is not a multiple of 16384")
PYTHON
echo "$(grep -c . "$work/methods") entries in $(basename "$apk") are as they should be"
