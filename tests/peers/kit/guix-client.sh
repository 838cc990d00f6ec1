#!/bin/bash
# Runs inside the chroot, over the empty store that `guix.sh client` mounted: guix-client.sh URLS CMD...
# Exits with what CMD does, or with 99 where there is no daemon.
urls=$1; shift
socket=/var/guix/daemon-socket/socket
for k in /keys/*.pub; do [ ! -e "$k" ] || guix archive --authorize < "$k" || exit 99; done
discover=no
[ "$urls" != discover ] || { discover=yes; urls=http://127.0.0.1:1; }
rm -f $socket   # of a call before
guix-daemon --disable-chroot --substitute-urls="$urls" --discover=$discover --max-jobs=2 > /var/guix/daemon.log 2>&1 &
daemon=$!
for _ in $(seq 300); do { [ ! -S $socket ] && kill -0 $daemon 2> /dev/null; } || break; sleep 0.1; done
[ $discover = no ] || for _ in $(seq 300); do [ ! -s /var/guix/discover/publish ] || break; sleep 0.1; done
if [ ! -S $socket ]; then
  echo "guix-client.sh: guix-daemon did not come up" >&2
  tail -n 20 /var/guix/daemon.log >&2
  kill $daemon 2> /dev/null
  exit 99
fi
"$@"
rc=$?
kill $daemon || rc=99
wait $daemon 2> /dev/null
exit $rc
