#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets, fuzz/corpus/TARGET/*, from the samples of the tests. Needs the command zstd."""

import base64
import hashlib
import json
import pathlib
import struct
import subprocess

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parent / "tests"


def seed(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def zstd(content):
    command = ["zstd", "-q", "-19", "--no-check", f"--stream-size={len(content)}", "-c"]
    return subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True).stdout


def skippable(magic, payload):
    return struct.pack("<II", magic, len(payload)) + payload


def capabilities():
    urns = []
    for number in (0, 7, 12):
        vector = TESTS / f"vectors/eris-1.0.0/eris-test-vector-positive-{number:02}.json"
        urns.append(json.loads(vector.read_text())["urn"])
    for number, urn in enumerate(urns):
        seed("capability", f"urn-{number}", urn.encode())
    seed("capability", "fragment", (urns[0].replace("eris:", "erisx3:") + "#f?+r").encode())
    seed("capability", "upper-case", urns[0].replace("urn:eris:", "URN:ErisX2:").encode())
    seed("capability", "reference", b"H77AGSYKAVTQPUHODJTQA7WZPTWGTTKLRB2GLMF5H53NEKFJ3FUQ")
    seed("capability", "binary", bytes([0x0A, 3]) + bytes(range(64)))
    seed("capability", "secret", b"0f" * 32)


def block_trees():
    def leaf(length, content, last):
        return bytes([2 if last else 0]) + struct.pack("<HB", length, len(content)) + content

    def node(pairs, first, last):
        return bytes([1, pairs, first, last])

    def full(first, last):
        return bytes([3, first, last])

    for generation in range(4):
        head = bytes([generation << 1]) + struct.pack("<HH", 1000, 2000)
        seed("block_tree", f"leaf-{generation}", head + leaf(500, b"leaf", True))
        leaves = leaf(1024, b"left", False) + leaf(3, b"end", True)
        seed("block_tree", f"node-{generation}", head + leaves + node(3, 0, 1))
        seed("block_tree", f"levels-{generation}", head + leaves + full(0, 0) + node(2, 0, 1) + node(2, 2, 3))
    large = bytes([1]) + struct.pack("<HH", 30000, 20000)
    seed("block_tree", "large", large + leaf(32768, b"large", False) + leaf(7, b"x", True) + node(2, 0, 1))


def nars():
    for step, path in enumerate(sorted((TESTS / "samples/nar").glob("*.nar")), 3):
        if path.stat().st_size < 2000:
            seed("nar", path.stem, bytes([step]) + path.read_bytes())


def narinfos():
    for folder in ("bug52555", "guix/cached", "guix/uncached", "nix/cache-zstd", "nix/none"):
        for path in sorted((TESTS / "samples" / folder).glob("*.narinfo"))[:2]:
            seed("narinfo", f"{folder.replace('/', '-')}-{path.stem[:16]}", path.read_bytes())


def signatures():
    guix = TESTS / "samples/guix"
    for name in ("acl", "signing-key.pub", "test-signing-key.sec"):
        seed("signature", name, (guix / name).read_bytes())
    for line in (guix / "signatures.txt").read_text().splitlines():
        kind, text, encoded = line.split("\t")
        seed("signature", text.replace(" ", "-"), base64.b64decode(encoded))
    seed("signature", "field", f"1;host;{encoded}".encode())
    seed("signature", "forms", rb'(a "\x61\142\n" #61 62# 2:ab ())')


def seekables():
    nar = (TESTS / "samples/nar/hello-offline.nar").read_bytes()
    listing = (TESTS / "samples/nar/hello-offline.ls").read_bytes()
    frames = [(zstd(part), len(part)) for part in (nar[:500], nar[500:])]
    frames.append((skippable(0x184D2A5D, b"NARLIST1" + zstd(listing)), 0))
    entries = b"".join(struct.pack("<II", len(frame), size) for frame, size in frames)
    table = entries + struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    whole = b"".join(frame for frame, _ in frames) + skippable(0x184D2A5E, table)
    seed("seekable", "object", b"\0" + whole)

    sizes = b"\2" + struct.pack("<BI", 9, 500) + struct.pack("<BI", 8, len(nar) - 500)
    trailer = b"\2" + struct.pack("<BH", 0xCD, len(listing)) + listing + struct.pack("<BH", 0, 3) + b"pad"
    seed("seekable", "program", b"\1" + sizes + trailer + b"\1")
    for path in sorted((TESTS / "samples/nar").glob("*.ls")):
        if path.stat().st_size < 2000:
            seed("seekable", path.stem, b"\2" + path.read_bytes())


def catalogs():
    digits = "0123456789abcdfghijklmnpqrsvwxyz"
    found = {}
    for path in sorted((TESTS / "samples/guix/uncached").glob("*.narinfo"))[:3]:
        text = path.read_text()
        name = text.split("\n")[0].rsplit("/", 1)[1]
        key = 0
        for digit in name[:32]:
            key = key << 5 | digits.index(digit)
        found[key.to_bytes(20, "big")] = (name[33:].encode(), text)
    keys = sorted(found)
    texts = "".join(found[key][1] + "\n" for key in keys).encode()
    names = [found[key][0] for key in keys]
    page = struct.pack("<I", len(keys)) + b"".join(keys) + bytes([0, 1, 3][: len(keys)])
    page += b"".join(struct.pack("<Q", 5) for _ in keys) + bytes(map(len, names)) + b"".join(names)
    seed("catalog", "pages", b"\1" + struct.pack("<H", len(texts)) + texts + b"\0" + page)

    def frame(tag, payload):
        return skippable(0x184D2A5A, tag + payload)

    def entry(offset, packed, content):
        return keys[0] + struct.pack("<QII", offset, len(packed), len(content))

    narinfos, packed = zstd(texts), zstd(page)
    content = narinfos + frame(b"ERISNAME", packed)
    index = entry(0, narinfos, texts) + entry(len(narinfos) + 16, packed, page)
    index_at = len(content) + 16
    content += frame(b"ERISINDX", index)
    tail = keys[0] * 2 + b"/gnu/store"
    tail += struct.pack("<QQQQIHH", len(keys), 1, 1, index_at, len(tail) + 64, 10, 1) + b"ERISCAT\n"
    seed("catalog", "whole", b"\0" + content + frame(b"ERISROOT", tail))


def cache_infos():
    seed("cache_info", "nix", b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
    seed("cache_info", "guix", b"StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n")


def decoders():
    # In the order of Compression::ALL.
    samples = TESTS / "samples/nar"
    for number, suffix in [(1, "gzip"), (2, "xz"), (3, "lzip"), (4, "zstd"), (5, "bz2")]:
        packed = (samples / f"guix-hello-offline-1.0.nar.{suffix}").read_bytes()
        seed("decoders", suffix, bytes([number, 7]) + packed)
        seed("decoders", f"{suffix}-twice", bytes([number, 100]) + packed + packed)
    # A meta-block that is not compressed, and the end; a frame with a block that is not compressed.
    seed("decoders", "br", bytes([6, 3]) + bytes([0x0B, 0x02, 0x80]) + b"hello" + b"\3")
    lz4 = bytes.fromhex("04224d18604082") + struct.pack("<I", 0x80000005) + b"hello" + bytes(4)
    seed("decoders", "lz4", bytes([7, 5]) + lz4)


def bundles():
    def text(content):
        return (b"\x59" + struct.pack(">H", len(content)) if len(content) > 255 else b"\x58" + bytes([len(content)])) + content

    block = bytes(range(256)) * 4
    reference = hashlib.blake2b(block, digest_size=32).digest()
    pair = text(reference) + text(block)
    capability = b"\xd9\x01\x14" + text(bytes([10, 0]) + bytes(64))
    seed("bundle", "open", b"\xd9\xd9\xf7\xdaeris\x9f\xbf" + pair + b"\xff" + capability + b"\xff")
    seed("bundle", "fixed", b"\x82\xa1" + pair + capability)
    pieces = b"\x5f" + b"".join(text(block[at : at + 300]) for at in range(0, 1024, 300)) + b"\xff"
    seed("bundle", "pieces", b"\x9f\xbf" + text(reference) + pieces + b"\xff\x82\x01\x61x\xff")
    seed("bundle", "empty", b"\x9f\xbf\xff\xff")


def gdbms():
    header = struct.pack("<IIQIIIIQ", 0x13579ACF, 512, 512, 512, 6, 512, 16, 1536)
    bucket = bytes(104) + struct.pack("<II", 0, 0) + struct.pack("<IIQII", 0xFFFFFFFF, 0, 0, 0, 0) * 16
    directory = struct.pack("<Q", 1024) * 64
    seed("gdbm", "small", b"\0" + header.ljust(512, b"\0") + directory + bucket.ljust(512, b"\0"))
    seed("gdbm", "untouched", b"\1")
    seed("gdbm", "changed", b"\1" + struct.pack("<HBQ", 4096, 8, 1 << 40) + struct.pack("<HBI", 8192 + 104, 4, 9))


for make in (capabilities, block_trees, nars, narinfos, signatures, seekables, catalogs, cache_infos, decoders, bundles, gdbms):
    make()
