# Debian packages, npm packages, the libvirt binding. Read by setup.sh.

packages=(
  qemu-system-x86 qemu-utils
  libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients libvirt-dev
  dnsmasq-base nftables iptables ebtables iproute2 procps
  g++ pkg-config
  postgresql-15
  openssl zstd busybox-static cpio xz-utils e2fsprogs
  tcpdump zip unzip gnupg curl ca-certificates
)

missing() { # PACKAGE…: those that are not installed
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' || true)
  comm -23 <(printf '%s\n' "$@" | sort -u) <(sort -u <<<"$installed")
}

set_up_packages() {
  local list what
  for program in dpkg-query apt-get; do
    command -v $program >/dev/null || fail "this is no Debian: install by hand what these Debian packages hold: ${packages[*]}"
  done
  mapfile -t list < <(missing "${packages[@]}")
  if [ ${#list[@]} -eq 0 ]; then
    there 'system packages' 'there'
    return
  fi
  install_packages "${list[@]}"
}

install_packages() { # PACKAGE…
  [ "$(id -u)" = 0 ] || fail "system packages are missing, and installing them needs root: sudo apt-get install --no-install-recommends $*"
  # What is installed here is started by vmferry when it is wanted, in namespaces of its own: no service of the system
  # is to start by itself now, and PostgreSQL is to make no cluster.
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ] || grep -qs 'set-up of vmferry' $policy; then
    undo+=($policy)
    # Should this file be left behind by a power loss, it lets services start as if it were not there.
    printf '%s\n' '#!/bin/sh' "# Put here by the set-up of vmferry while it installs packages." \
      "kill -0 $$ 2>/dev/null || exit 0" 'exit 101' >$policy
    chmod 755 $policy
  fi
  mkdir -p /etc/postgresql-common/createcluster.d
  undo+=(/etc/postgresql-common/createcluster.d/vmferry.conf)
  echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/vmferry.conf

  work 'system packages' "installing $*" 'apt-get failed; without a network install them by hand, otherwise the lines below tell why' apt_install "$@"
  rm -f -- "${undo[@]}"
  undo=()
}

apt_install() { # PACKAGE…
  export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
  apt-get -q -o DPkg::Lock::Timeout=300 update || echo 'going on with what was known before'
  apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold install --yes --no-install-recommends "$@"
}

set_up_npm() {
  # npm writes this file last, so it is older than the lockfile after an update and missing after an interruption.
  local installed=node_modules/.package-lock.json
  if [ -e $installed ] && [ ! package-lock.json -nt $installed ]; then
    there 'npm packages' 'there'
  else
    install_npm_packages
  fi
  # npm 10 forgets this link when it skips the same program for another architecture.
  local program
  for program in node_modules/node-linux-*/bin/node; do
    if [ ! -e node_modules/.bin/node ] && "$program" --version >/dev/null 2>&1; then
      ln -s "../${program#node_modules/}" node_modules/.bin/node
    fi
  done
}

install_npm_packages() {
  # Not the Node that npm is about to remove.
  local PATH=$PATH version
  PATH=$(tr : '\n' <<<"$PATH" | grep -v '/node_modules/\.bin$' | paste -sd :)
  command -v npm >/dev/null || fail 'there is no npm: install Node.js 20 or newer with npm, from nodejs.org or your distribution'
  version=$(node --version 2>/dev/null) || fail 'there is no Node.js: install version 20 or newer, from nodejs.org or your distribution'
  version=${version#v}
  [ "${version%%.*}" -ge 20 ] || fail "Node.js $version is too old: version 20 or newer is needed"
  LOG_SAYS=npm_progress work 'npm packages' 'installing them' \
    'npm ci failed; it needs a network and a registry that `npm config get registry` names' \
    npm ci --no-audit --no-fund --loglevel=error
}

npm_progress() { echo "$(find node_modules -mindepth 1 -maxdepth 1 | wc -l) folders in node_modules"; }

set_up_binding() {
  if bash infra/libvirt/build.sh --check; then
    there 'libvirt binding' 'there'
  else
    work 'libvirt binding' 'compiling it' 'it does not compile' bash infra/libvirt/build.sh
  fi
}
