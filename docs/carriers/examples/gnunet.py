#!/usr/bin/env python3
"""A carrier for erisfs: blocks as values of the GNUnet DHT, by way of gnunet-dht-put and gnunet-dht-get.

    --blocks "exec:gnunet.py [-c gnunet.conf] [--keep FOLDER] [--expire SECONDS]"
    gnunet.py --republish --keep FOLDER [...]

A value of the DHT expires. With --keep, the blocks that are put stay in FOLDER (which dir:FOLDER reads, too), and are put again when
half of their time is over: while erisfs runs, and by --republish as long as that runs.
"""
import argparse
import base64
import hashlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

options = argparse.ArgumentParser()
options.add_argument("-c", "--config", help="that of the peer")
options.add_argument("--keep", metavar="FOLDER", help="where blocks stay that are to be put again")
options.add_argument("--expire", metavar="SECONDS", type=int, default=24 * 3600)
options.add_argument("--republish", action="store_true", help="put again what expires, and take no requests")
options = options.parse_args()

AT_A_TIME = 8
SEARCH = 8  # seconds; erisfs waits for 25
peer = ["-c", options.config] if options.config else []
lock = threading.Lock()


def is_block(reference, block):
    digest = hashlib.blake2b(block, digest_size=32).digest()
    return base64.b32encode(digest).rstrip(b"=").decode() == reference


def publish(reference, block):
    # A value is a text argument of at most 63,000 bytes: 32 KiB are 43,692 in base64. An expiry needs its unit.
    value = base64.b64encode(block)
    put = ["gnunet-dht-put", *peer, "-k", reference, "-d", value, "-e", "%d s" % options.expire, "-t", "8"]
    subprocess.run(put, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True, timeout=20)


def find(reference):
    # It buffers what it finds unless told otherwise, and goes on until its time is over.
    get = ["stdbuf", "-oL", "gnunet-dht-get", *peer, "-k", reference, "-T", "%d s" % SEARCH, "-t", "8"]
    with subprocess.Popen(get, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as search:
        # Anybody may put a value under this key, so there may be others before the right one.
        while line := search.stdout.readline(100_000):
            try:
                block = base64.b64decode(line.strip(), validate=True)
            except ValueError:
                continue
            if is_block(reference, block):
                search.kill()
                return block
    if search.returncode:
        raise OSError("gnunet-dht-get failed with status %d" % search.returncode)
    return None


def keep(reference, block):
    path = os.path.join(options.keep, reference)
    os.makedirs(options.keep, exist_ok=True)
    with open(path + ".part", "wb") as file:
        file.write(block)
    os.utime(path + ".part", (0, 0))  # not in the DHT yet
    os.rename(path + ".part", path)


def republish():
    while True:
        due = time.time() - options.expire / 2
        kept = os.scandir(options.keep) if os.path.isdir(options.keep) else []
        expiring = [entry.name for entry in kept if len(entry.name) == 52 and entry.stat().st_mtime < due]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(republish_one, expiring))
        time.sleep(options.expire / 8)


def republish_one(reference):
    path = os.path.join(options.keep, reference)
    try:
        block = open(path, "rb").read()
        if is_block(reference, block):
            publish(reference, block)
            os.utime(path)
    except (OSError, subprocess.SubprocessError) as error:
        print("%s: %.100s" % (reference, error), file=sys.stderr, flush=True)


def say(number, line, block=b""):
    with lock:  # answers may come in any order, but each in one piece
        sys.stdout.buffer.write(b"%d %s\n" % (number, line.encode()) + block)
        sys.stdout.buffer.flush()


def answer(number, verb, reference, block):
    try:
        if verb == "put":
            if options.keep:
                keep(reference, block)
            publish(reference, block)
            if options.keep:
                os.utime(os.path.join(options.keep, reference))
            say(number, "stored")
        elif block := find(reference):
            say(number, "block %d" % len(block), block)
        else:
            say(number, "absent")
    except (OSError, subprocess.SubprocessError) as error:
        say(number, "error %s: %.100s" % (type(error).__name__, str(error).replace("\n", " ")))


if options.republish:
    republish()
if options.keep:
    threading.Thread(target=republish, daemon=True).start()
print("erisfs-carrier 1 get put concurrency=%d" % AT_A_TIME, flush=True)
with ThreadPoolExecutor(AT_A_TIME) as pool:
    while line := sys.stdin.buffer.readline():
        number, verb, reference, *length = line.decode().split()
        block = sys.stdin.buffer.read(int(length[0])) if length else b""
        pool.submit(answer, int(number), verb, reference, block)
