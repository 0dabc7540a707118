#!/usr/bin/env bash
# Writes checksums.sha256 anew, after a change of pom.xml: look at what changed before you commit it.
set -euo pipefail
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
. "$(dirname "$0")/common.sh"
fetch provided "$build/all"
fetch test "$build/all"
(cd "$build/all" && sha256sum -- *) >"$demo/checksums.sha256"
