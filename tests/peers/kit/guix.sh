#!/bin/bash
# A real Guix: daemon, `guix publish`, and a client with an empty store of its own.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
PORT=${GUIX_PORT:-8181}
COMPRESSION=${GUIX_COMPRESSION:-zstd lzip gzip}   # "0" serves nars uncompressed
USAGE='install | fill | start | bake | stop | run CMD... | client URLS CMD...'

daemon() {
  alive guix-daemon && return 0
  [ -e "$SID/.ready" ] || die "run \`$0 install\` first"
  rm -f "$SID/var/guix/daemon-socket/socket"
  local SID_CMD; sid_cmd guix-daemon --disable-chroot --no-substitutes --discover=no
  spawn guix-daemon "${SID_CMD[@]}"
  started guix-daemon 20 test -S "$SID/var/guix/daemon-socket/socket"
}

case ${1:-} in
install) sid_install "${SID_PACKAGES[@]}" ;;
fill)
  daemon; seed
  sid guix repl -q /kit/fill.scm >&2
  ;;
start)
  daemon
  [ -e "$SID/etc/guix/signing-key.sec" ] || sid guix archive --generate-key >&2
  args=(--port="$PORT" --listen=127.0.0.1 --ttl=90d --negative-ttl=1s)
  for c in $COMPRESSION; do args+=(--compression="$c"); done
  args+=(--cache=/var/cache/guix/publish --cache-bypass-threshold=0 --workers=2)
  sid_cmd guix publish "${args[@]}"
  spawn guix-publish "${SID_CMD[@]}"
  started guix-publish 20 curl -fsS -m 5 "http://127.0.0.1:$PORT/nix-cache-info"
  echo "GUIX_PUBLISH=http://127.0.0.1:$PORT GUIX_KEY=$SID/etc/guix/signing-key.pub GUIX_PATHS=$PEERS/share/guix-paths.txt"
  ;;
bake) # Asks for every narinfo until it is served (the first answer is 404).
  while read -r p; do
    h=$(basename "$p"); h=${h%%-*}
    wait_for 300 curl -fsS -m 20 "http://127.0.0.1:$PORT/$h.narinfo"
  done < "$PEERS/share/guix-paths.txt"
  ;;
stop) halt guix-publish; halt guix-daemon ;;
run) shift; sid "$@" ;;
client)
  # An empty /gnu/store, /var/guix and /etc/guix, and a daemon that substitutes from URLS.
  # GUIX_CLIENT=NAME: a store of its own, for tests in parallel. GUIX_CLIENT_KEEP=1 keeps the store of the last call.
  # GUIX_CLIENT_KEYS: files of keys to authorize (default: that of `guix publish`; empty: none).
  [ $# -ge 3 ] || usage "$USAGE"
  urls=$2; shift 2
  c=$PEERS/clients/guix-${GUIX_CLIENT:-default}
  [ -n "${GUIX_CLIENT_KEEP:-}" ] || rm -rf "$c"
  mkdir -p "$c/store" "$c/var" "$c/etc" "$c/keys"
  rm -f "$c/etc/acl" "$c"/keys/*.pub
  n=0
  for k in ${GUIX_CLIENT_KEYS-"$SID/etc/guix/signing-key.pub"}; do n=$((n + 1)); cp "$k" "$c/keys/$n.pub"; done
  sid -b "$c/store" /gnu/store -b "$c/var" /var/guix -b "$c/etc" /etc/guix -b "$c/keys" /keys \
    bash /kit/guix-client.sh "$urls" "$@"
  ;;
*) usage "$USAGE" ;;
esac
