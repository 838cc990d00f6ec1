# What the peer scripts share: sourced, never run.
#
# $PEERS      where everything goes: the chroot, data, logs, pid files
# spawn/halt  start a background program, end exactly that one
# sid         run a command in the Debian sid chroot, in a mount namespace of its own
#
# Endpoints go to stdout as NAME=VALUE words on one line (`export $(./guix.sh start)`); everything else goes to stderr.
set -euo pipefail

KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PEERS=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/erisfs-peers}
mkdir -p "$PEERS/run" "$PEERS/log" "$PEERS/share"
PEERS=$(cd "$PEERS" && pwd)
export PEERS
SID=$PEERS/sid
# Names of namespaces differ between two work directories on one machine.
TAG=$(printf %s "$PEERS" | cksum | cut -c1-4)
SID_PACKAGES=(guix guile-zstd guile-avahi nix-bin busybox-static ca-certificates)

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }
usage() { say "usage: $(basename "$0") $1"; exit 2; }

# From the lists at hand; only when that fails they are refreshed. (A mirror that lags behind the clock makes `update`
# fail with "Release file is expired", while its packages are fine.)
APT='export DEBIAN_FRONTEND=noninteractive
get() { apt-get install -y -qq --no-install-recommends "$@"; }
get "$@" || { apt-get update -qq; get "$@"; }'

# apt_host PACKAGE... : on this machine, without starting any service.
apt_host() {
  local missing=() p policy=/usr/sbin/policy-rc.d made=
  for p in "$@"; do dpkg -s "$p" 2>/dev/null | grep -q '^Status: install ok' || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; made=1; fi
  local rc=0
  bash -c "$APT" apt "${missing[@]}" > "$PEERS/log/apt.log" 2>&1 || rc=$?
  [ -z "$made" ] || rm -f $policy
  [ $rc = 0 ] || die "apt-get failed, see $PEERS/log/apt.log"
}

# venv NAME PACKAGE... : a Python environment under $PEERS.
venv() {
  local d=$PEERS/$1; shift
  [ -x "$d/bin/pip" ] || { apt_host python3-venv; /usr/bin/python3 -m venv "$d" >&2; }
  "$d/bin/pip" install --quiet "$@" >&2
}

# born PID: when the process started; nothing for one that ended and waits to be reaped.
born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" { print $20 }'; }
group_lives() { { sed 's/.*) //' /proc/[0-9]*/stat 2>/dev/null || true; } | awk -v g="$1" '$3 == g && $1 != "Z" { n++ } END { exit !n }'; }

BOOT=$(cat /proc/sys/kernel/random/boot_id)
alive() { # alive NAME : the process that spawn started is still that process
  local pid when boot
  read -r pid when boot 2>/dev/null < "$PEERS/run/$1.pid" || return 1
  [ -n "$when" ] && [ "$boot" = "$BOOT" ] && [ "$(born "$pid" || true)" = "$when" ]
}

spawn() { # spawn NAME CMD... : a process group of its own, output in $PEERS/log/NAME.log
  local name=$1; shift
  alive "$name" && return 0
  setsid "$@" < /dev/null > "$PEERS/log/$name.log" 2>&1 9>&- &
  echo "$! $(born $!) $BOOT" > "$PEERS/run/$name.pid"
}

halt() { # halt NAME : end that process group, wait, insist
  local pid when boot now f=$PEERS/run/$1.pid
  [ -f "$f" ] || return 0
  read -r pid when boot < "$f"
  now=$(born "$pid" || true)
  # A live process with another start time, or a number from before a reboot, is somebody else's.
  if [ "$boot" = "$BOOT" ] && { [ -z "$now" ] || [ "$now" = "$when" ]; }; then
    kill -TERM -- "-$pid" 2>/dev/null || true
    for _ in $(seq 50); do group_lives "$pid" || break; sleep 0.1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
  fi
  rm -f "$f"
}

wait_for() { # wait_for SECONDS CMD... : until CMD succeeds
  local end=$(( SECONDS + $1 )); shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { say "gave up waiting for: $*"; return 1; }
    sleep 0.2
  done
}
port_open() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

started() { # started NAME SECONDS CMD... : wait, or show the log and fail
  local name=$1; shift
  wait_for "$@" && alive "$name" && return 0
  tail -n 20 "$PEERS/log/$name.log" >&2
  halt "$name"
  die "$name did not start"
}
log_has() { grep -q -- "$2" "$PEERS/log/$1.log"; }

# --- the Debian sid chroot
# Every call has private mounts, so none is visible outside and `rm -rf $PEERS` is safe after `stop`.
# This folder is /kit inside, $PEERS/share is /share.
sid_enter() {
  local r=$1 kit=$2 share=$3; shift 3
  mount --bind /proc "$r/proc"
  mount --bind /dev "$r/dev"
  mount --bind /dev/pts "$r/dev/pts"
  mount --bind "$kit" "$r/kit"
  mount --bind "$share" "$r/share"
  while [ "$1" = -b ]; do mkdir -p "$2" "$r$3"; mount --bind "$2" "$r$3"; shift 3; done
  exec chroot "$r" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 TERM=dumb \
    ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
    ${SID_DBUS:+DBUS_SYSTEM_BUS_ADDRESS="$SID_DBUS"} "$@"
}

# sid [-b HOST_DIR DIR_INSIDE]... CMD...   (sid_cmd fills the array SID_CMD with it)
sid_cmd() {
  SID_CMD=(unshare --mount --propagation private bash -c "set -e; $(declare -f sid_enter); sid_enter \"\$@\"" sid
    "$SID" "$KIT" "$PEERS/share" "$@")
}
sid() { local SID_CMD; sid_cmd "$@"; "${SID_CMD[@]}"; }

sid_install() { # sid_install PACKAGE...
  apt_host debootstrap curl python3
  if [ ! -e "$SID/.ready" ]; then
    say "debootstrap sid"
    rm -rf "$SID"
    unshare --mount --propagation private debootstrap --variant=minbase sid "$SID" > "$PEERS/log/debootstrap.log" 2>&1 ||
      die "debootstrap failed, see $PEERS/log/debootstrap.log"
    printf '#!/bin/sh\nexit 101\n' > "$SID/usr/sbin/policy-rc.d"
    chmod +x "$SID/usr/sbin/policy-rc.d"
    mkdir -p "$SID/kit" "$SID/share"
    touch "$SID/.ready"
  fi
  local missing=() p
  for p in "$@"; do [ -e "$SID/var/lib/dpkg/info/$p.list" ] || [ -e "$SID/var/lib/dpkg/info/$p:amd64.list" ] || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing in the chroot: ${missing[*]}"
  sid bash -c "$APT" apt "${missing[@]}" > "$PEERS/log/sid-apt.log" 2>&1 || die "apt-get failed, see $PEERS/log/sid-apt.log"
  sid apt-get clean
}

# The same input for Guix and Nix: $PEERS/share/seed/{tree,busybox}
seed() {
  local s=$PEERS/share/seed a
  if [ ! -d "$s/tree" ]; then
    mkdir -p "$s"
    sid nix-store --restore /share/seed/tree < "$KIT/../../samples/nar/tree.nar"
  fi
  if [ ! -d "$s/busybox" ]; then
    mkdir -p "$s/busybox/bin"
    cp "$SID/usr/bin/busybox" "$s/busybox/bin/busybox"
    for a in sh cat cp mkdir chmod ln; do ln -s busybox "$s/busybox/bin/$a"; done
  fi
}

# --- network namespaces --------------------------------------------------------------------
netns_up() { # netns_up NAME : only loopback inside
  [ -e "/run/netns/$1" ] || { apt_host iproute2; ip netns add "$1"; }
  ip netns exec "$1" ip link set lo up
}
netns_down() { # ends what still runs in that namespace
  [ -e "/run/netns/$1" ] || return 0
  local p
  for p in $(ip netns pids "$1"); do kill "$p" 2>/dev/null || true; done
  wait_for 5 sh -c "[ -z \"\$(ip netns pids $1)\" ]" || for p in $(ip netns pids "$1"); do kill -KILL "$p" 2>/dev/null || true; done
  ip netns del "$1"
}

# --- one at a time: tests run in parallel; installing, filling, starting and stopping take turns.
case ${1:-} in
install* | fill | start* | publish | stop)
  if [ -z "${PEERS_LOCKED:-}" ]; then
    exec 9> "$PEERS/run/lock"
    flock 9
    export PEERS_LOCKED=1
  fi
  ;;
esac
