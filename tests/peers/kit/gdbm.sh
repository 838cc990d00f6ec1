#!/usr/bin/env bash
# GDBM's own tools: gdbmtool, gdbm_dump, gdbm_load.
. "$(dirname "$0")/lib.sh"

case ${1-} in
  install) apt_host gdbmtool ;;
  *) usage install ;;
esac
