# How a step of set-up reports. Read by setup.sh.

quiet=
child= # the command under way, and its log
log=
undo=() # files that are there only for a while

# An interrupted set-up leaves neither processes nor files that were only for a while.
tidy() {
  # A child that is ended before it has become another program still has this trap, and the log is not its own.
  [ "$BASHPID" = $$ ] || return 0
  [ -z "$child" ] || kill -- "-$child" 2>/dev/null || true
  rm -f -- ${log:+"$log"} "${undo[@]}"
}
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

now() { echo "${EPOCHREALTIME//[!0-9]/}"; } # microseconds
begun=$(now)

tell() { printf 'setup: %s\n' "$*" >&2; }

# The line of a step that had nothing to do.
there() { # STEP WHAT
  local tenths=$((($(now) - begun) / 100000))
  [ -n "$quiet" ] || tell "$1: $2 ($((tenths / 10)).$((tenths % 10)) s)"
  begun=$(now)
}

# One sentence, and the end of the log if a command failed.
fail() { # SENTENCE
  tell "$1"
  if [ -n "$log" ]; then
    tail -n 8 "$log" | sed 's/^/setup:   | /' >&2
    tell "all of it is in $log"
    log=
  fi
  exit 1
}

# Runs COMMAND with its output in a log, and says every ten seconds where it is. LOG_SAYS may name a function that makes
# one line of the log; otherwise it is the last one. The log is kept only if COMMAND fails.
work() { # STEP WHAT SENTENCE-IF-IT-FAILS COMMAND…
  local step=$1 what=$2 sentence=$3 timer where status=0 start=$SECONDS
  shift 3
  log=$(mktemp -t vmferry-setup-XXXXXX.log)
  tell "$step: $what …"
  set -m # a process group of its own, so that all of it can be ended
  "$@" >"$log" 2>&1 </dev/null &
  child=$!
  set +m
  while :; do
    sleep 10 {lock}<&- &
    timer=$!
    wait -n "$child" "$timer" || true
    if ! kill -0 "$child" 2>/dev/null; then break; fi
    where=$("${LOG_SAYS:-last_line}" "$log")
    tell "$step: $((SECONDS - start)) s so far${where:+: $where}"
  done
  kill "$timer" 2>/dev/null || true
  wait "$child" || status=$?
  child=
  [ $status = 0 ] || fail "$step: $sentence"
  rm -f "$log"
  log=
  tell "$step: done ($((SECONDS - start)) s)"
  begun=$(now)
}

last_line() { tr '\r' '\n' <"$1" | sed '/^[[:space:]]*$/d' | tail -n 1 | cut -c 1-100; }

# Holds a lock on FILE until this script and what it started have ended, however they end.
one_at_a_time() { # FILE WHAT
  exec {lock}<"$1"
  if flock -n "$lock"; then return; fi
  tell "waiting for $2 to end …"
  flock "$lock"
}
