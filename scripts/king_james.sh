#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The King James Bible as training text, from Debian's package bible-kjv (text: public domain, the copyright of the 1611
# translation has expired). One verse a line without its number; chapters are documents, separated by empty lines.
# usage: scripts/king_james.sh > king_james.txt
set -eu
if ! command -v bible >/dev/null 2>&1; then
  echo "king_james.sh: the program 'bible' is missing; install it: apt-get install bible-kjv" >&2
  exit 1
fi
bible -f gen1:1-rev22:21 | awk '
  {
    chapter = $1
    sub(/:.*/, "", chapter)
    if (NR > 1 && chapter != last) print ""
    last = chapter
    sub(/^[^ ]* /, "")
    print
  }'
