#!/bin/bash
# Runs inside the chroot: signed binary caches under /share/nix/www, and what is in them in /share/nix/paths.txt.
set -e
cd /share/nix
nix-store --init
[ -e key.sec ] || nix-store --generate-binary-cache-key test-cache-1 key.sec key.pub
tree=$(nix-store --add /share/seed/tree)              # content-addressed: accepted with any key
large=$(nix-store --add /usr/share/guile/site/3.0/guix)  # some megabytes
cat > hello.nix <<'NIX'
let
  bb = builtins.path { path = /share/seed/busybox; name = "busybox-static"; };
  tree = builtins.path { path = /share/seed/tree; name = "tiny-tree"; };
in derivation {
  name = "hello-offline-1.0";
  system = builtins.currentSystem;
  builder = "${bb}/bin/sh";
  PATH = "${bb}/bin";
  outputs = [ "out" "lib" ];
  args = [ "-c" ''
    mkdir -p $out/bin $lib/lib
    cp -r ${tree}/. $lib/lib/
    printf '#!%s/bin/sh\nexec cat %s/lib/a.txt\n' ${bb} $lib > $out/bin/hello
    chmod +x $out/bin/hello
    echo self=$out > $out/self
  '' ];
}
NIX
hello=$(nix-build --no-out-link hello.nix)            # signed by key.sec when it is copied
printf '%s\n' "$hello" "$tree" "$large" > paths.txt
for c in zstd xz none; do
  rm -rf www/cache-$c
  nix copy --to "file:///share/nix/www/cache-$c?compression=$c&write-nar-listing=true&secret-key=/share/nix/key.sec" \
    "$hello" "$tree" "$large"
done
