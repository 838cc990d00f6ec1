#!/bin/bash
# A real Nix: signed binary caches (zstd, xz, none) with .ls listings, and a client with an empty /nix of its own.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PORT=${NIX_PORT:-8200}
D=$PEERS/share/nix
USAGE='install | fill | start | stop | run CMD... | client URLS CMD...'
CONFIG='build-users-group =
sandbox = false
experimental-features = nix-command
'

case ${1:-} in
install) sid_install "${SID_PACKAGES[@]}" ;;
fill)
  [ -e "$SID/.ready" ] || die "run \`$0 install\` first"
  seed; mkdir -p "$D"
  sid env NIX_CONFIG="$CONFIG
substituters =" bash /kit/nix-fill.sh >&2
  ;;
start)
  [ -e "$D/paths.txt" ] || die "run \`$0 fill\` first"
  # No Range and no keep-alive: a plain HTTP/1.0 server.
  spawn nix-caches /usr/bin/python3 -m http.server --bind 127.0.0.1 --directory "$D/www" "$PORT"
  started nix-caches 20 port_open "$PORT"
  u=http://127.0.0.1:$PORT
  echo "NIX_ZSTD=$u/cache-zstd NIX_XZ=$u/cache-xz NIX_NONE=$u/cache-none NIX_CACHES=$D/www NIX_KEY=$D/key.pub NIX_PATHS=$D/paths.txt"
  ;;
stop) halt nix-caches ;;
run) shift; sid env NIX_CONFIG="$CONFIG" "$@" ;;
client)
  # Root's own /nix with no daemon, substituting from URLS, signatures required.
  # NIX_CLIENT=NAME: a store of its own, for tests in parallel. NIX_CLIENT_KEEP=1 keeps the store of the last call.
  # NIX_CLIENT_KEYS: trusted public keys (default: that of the caches).
  [ $# -ge 3 ] || usage "$USAGE"
  urls=$2; shift 2
  c=$PEERS/clients/nix-${NIX_CLIENT:-default}
  [ -n "${NIX_CLIENT_KEEP:-}" ] || rm -rf "$c"
  sid -b "$c/nix" /nix -b "$c/home" /root env NIX_CONFIG="$CONFIG
substituters = $urls
trusted-public-keys = ${NIX_CLIENT_KEYS-$(cat "$D/key.pub")}
require-sigs = true
connect-timeout = 5
stalled-download-timeout = 60" "$@"
  ;;
*) usage "$USAGE" ;;
esac
