# What build.sh and test.sh share; they source it. Needs $build, an absolute path.

demo=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64
export PATH=$JAVA_HOME/bin:$PATH
libraries=$build/libraries

fail() {
  echo "error: $1" >&2
  exit 1
}

section() { printf '== %s (%d s)\n' "$1" "$SECONDS"; }

# Installs those of the Debian packages that are missing.
packages() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || fail "install first: apt-get install --no-install-recommends ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# fetch SCOPE FOLDER: copies pom.xml's libraries of a scope to a folder, from Maven's cache (~/.m2) if it has them all.
fetch() {
  local copy=(mvn --quiet --batch-mode -Dstyle.color=never --strict-checksums --file "$demo/pom.xml" -DincludeScope="$1"
    -DoutputDirectory="$2" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies)
  "${copy[@]}" --offline >/dev/null 2>&1 || "${copy[@]}"
}

# fetch_checked SCOPE FOLDER: likewise, and every file must be one of checksums.sha256.
fetch_checked() {
  fetch "$1" "$2"
  (cd "$2" && sha256sum --quiet --strict --ignore-missing --check "$demo/checksums.sha256") ||
    fail "what Maven fetched is not what checksums.sha256 says"
  local unlisted
  unlisted=$(cd "$2" && for file in *; do grep -q "  $file\$" "$demo/checksums.sha256" || echo "$file"; done)
  [ -z "$unlisted" ] || fail "not in checksums.sha256: $unlisted"
}

# classes FOLDER AAR...: unpacks the class files of Android libraries to a folder.
classes() {
  local folder=$1 aar
  mkdir -p "$folder"
  for aar in "${@:2}"; do
    unzip -p "$aar" classes.jar >"$folder/classes.jar"
    unzip -qo "$folder/classes.jar" -d "$folder"
    rm "$folder/classes.jar"
  done
}

# find_python: sets $python to the one in PYTHON, or python3, if it has this project's package, else to one of a new
# virtual environment in the build folder.
find_python() {
  python=${PYTHON:-python3}
  "$python" -c 'import tensorflow, dbf_keras' 2>/dev/null && return
  packages python3-venv python3-dev gcc libc6-dev
  python=$build/venv/bin/python
  [ -x "$python" ] || python3 -m venv "$build/venv"
  "$python" -m pip install --quiet --disable-pip-version-check -e "$demo/.."
}
