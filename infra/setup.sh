#!/bin/bash
# Sets up this machine for vmferry, and leaves alone what is there already: `npm run …` calls it each time.
#
#   setup.sh [--quiet] [--with chromium|tlc]…
#
# Debian packages (needs root when some are missing), npm packages, the libvirt binding, the Temporal server. Says on
# standard error what it does, one line for each step; with --quiet only what takes time, and what goes wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. infra/setup/steps.sh
. infra/setup/packages.sh
. infra/setup/temporal.sh
. infra/setup/tlc.sh

while [ $# -gt 0 ]; do
  case $1 in
    --quiet) quiet=1 ;;
    --with)
      case ${2:-} in
        chromium) packages+=(chromium) ;;
        tlc) want_tlc ;;
        *) fail '`--with` takes chromium or tlc' ;;
      esac
      shift
      ;;
    *) fail "there is no option $1: setup.sh [--quiet] [--with chromium|tlc]…" ;;
  esac
  shift
done

one_at_a_time infra/setup.sh 'another set-up of this folder'
set_up_packages
set_up_npm
set_up_binding
set_up_temporal
[ -z "${want_tlc:-}" ] || set_up_tlc
