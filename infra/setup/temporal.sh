# The Temporal server: found, downloaded, or built. Read by setup.sh. infra/temporal.ts looks in the same places.

# From 1.6 on its go.mod has a replace directive, with which `go install` refuses it.
temporal_version=1.5.1
temporal_sha256_x86_64=ddc95e08b0b076efd4ea9733a3f488eb7d2be875f8834e616cd2a37358b4852d
temporal_sha256_aarch64=bd1b0db9f18b051026de8bf6cc1505f2510f14bbb7a8b9a4a91fff46c77454f5
# The oldest Go that builds it, for machines whose own Go cannot get itself a newer one.
temporal_go=1.25.0

cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/vmferry

find_temporal() { # prints its path
  if [ -n "${VMFERRY_TEMPORAL_BIN:-}" ]; then
    [ -x "$VMFERRY_TEMPORAL_BIN" ] || fail "VMFERRY_TEMPORAL_BIN names $VMFERRY_TEMPORAL_BIN, which is no program"
    echo "$VMFERRY_TEMPORAL_BIN"
  elif ! command -v temporal; then
    [ -x "$cache/bin/temporal" ] && echo "$cache/bin/temporal"
  fi
}

set_up_temporal() {
  local found
  if found=$(find_temporal); then
    there 'Temporal server' "$found"
    return
  fi
  [ -z "${VMFERRY_TEMPORAL_BIN:-}" ] || exit 1
  mkdir -p "$cache/bin"
  one_at_a_time "$cache/bin" 'another download of the Temporal server'
  [ -x "$cache/bin/temporal" ] || download_temporal || build_temporal
  there 'Temporal server' "$cache/bin/temporal"
}

# The official release. False if it is not reached within seconds, or is not what it was when this was written.
download_temporal() {
  local machine sum url partial=$cache/release.$$ reason
  machine=$(uname -m)
  sum=temporal_sha256_$machine
  if [ -z "${!sum:-}" ]; then return 1; fi
  url=https://github.com/temporalio/cli/releases/download/v$temporal_version/temporal_cli_${temporal_version}_linux_$(dpkg --print-architecture).tar.gz
  undo+=("$partial" "$partial.tar.gz")
  tell "Temporal server: downloading release $temporal_version …"
  if ! reason=$(curl -fsSL --connect-timeout 5 --speed-limit 50000 --speed-time 10 --max-time 300 -o "$partial.tar.gz" "$url" 2>&1); then
    tell "Temporal server: no release from here (${reason#curl: }), so it is built from source"
    return 1
  fi
  if ! sha256sum --quiet --check <<<"${!sum}  $partial.tar.gz" 2>/dev/null; then
    tell 'Temporal server: the release is not the one expected (SHA-256 differs), so it is built from source'
    return 1
  fi
  tar -xzOf "$partial.tar.gz" temporal >"$partial"
  chmod 755 "$partial"
  mv "$partial" "$cache/bin/temporal"
  rm -f "$partial.tar.gz"
}

build_temporal() {
  local go free
  free=$(df --output=avail -k "$cache" | tail -n 1)
  [ "$free" -ge 4000000 ] || fail "Temporal server: building it takes 4 GB for a while, and $cache has $((free / 1000)) MB: set XDG_CACHE_HOME elsewhere"
  find_go || {
    [ "$(id -u)" = 0 ] || fail 'Temporal server: there is no Go to build it with: install Go 1.21 or newer, or name a temporal program in VMFERRY_TEMPORAL_BIN'
    install_packages golang-go
    find_go || fail 'Temporal server: there is no Go even after installing golang-go'
  }
  LOG_SAYS=go_progress work 'Temporal server' "building $temporal_version from source, about 3 minutes on 2 cores" \
    'it could not be built; name a temporal program in VMFERRY_TEMPORAL_BIN, or see why below' go_install "$go"
  # Modules and compiled packages: 2 GB that nothing needs any more. After a failure they stay, for the next try.
  rm -rf "$cache/go"
}

find_go() { # sets `go`
  for go in "$(command -v go || true)" /usr/local/go/bin/go /usr/lib/go/bin/go; do
    if [ -x "$go" ]; then return; fi
  done
  return 1
}

go_install() { # GO
  local go=$1 version
  # The machine's own settings of Go stay out of it, except where it gets its modules and how it checks them.
  export GOPATH=$cache/go/path GOMODCACHE=$cache/go/modules GOCACHE=$cache/go/build GOBIN=$cache/go/bin
  export GOFLAGS=-modcacherw CGO_ENABLED=0 GOTOOLCHAIN=local
  cd /
  version=$("$go" env GOVERSION)
  if [ "$(printf 'go1.21\n%s\n' "$version" | sort -V | head -n 1)" = go1.21 ]; then
    export GOTOOLCHAIN=auto
  else
    # Debian 12's Go is of the time before Go could replace itself; the newer one comes as a module all the same.
    local name=golang.org/toolchain@v0.0.1-go$temporal_go.linux-$("$go" env GOARCH)
    echo "go: downloading Go $temporal_go"
    "$go" mod download "$name"
    unset GOROOT
    go=$GOMODCACHE/$name/bin/go
    chmod -R u+x "$GOMODCACHE/$name/bin" "$GOMODCACHE/$name/pkg/tool"
  fi
  "$go" install -v -trimpath -ldflags '-s -w' github.com/temporalio/cli/cmd/temporal@v$temporal_version
  mv "$GOBIN/temporal" "$cache/bin/temporal"
}

go_progress() { # LOG
  local compiled
  compiled=$(grep -vc '^go: ' "$1" || true)
  if [ "$compiled" = 0 ]; then
    echo "downloaded $(grep -c '^go: downloading' "$1" || true) modules, $(tail -n 1 "$1" | cut -c 1-80)"
  else
    echo "compiled $compiled packages, the last is $(tail -n 1 "$1" | cut -c 1-80)"
  fi
}
