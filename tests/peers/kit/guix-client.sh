#!/bin/bash
# Runs inside the chroot, over the empty store that `guix.sh client` mounted: guix-client.sh URLS CMD...
urls=$1; shift
for k in /keys/*.pub; do [ ! -e "$k" ] || guix archive --authorize < "$k"; done
guix-daemon --disable-chroot --substitute-urls="$urls" --discover=no --max-jobs=2 > /var/guix/daemon.log 2>&1 &
daemon=$!
for _ in $(seq 300); do [ ! -S /var/guix/daemon-socket/socket ] || break; sleep 0.1; done
"$@"
rc=$?
kill $daemon
wait $daemon 2> /dev/null
exit $rc
