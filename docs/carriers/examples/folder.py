#!/usr/bin/env python3
"""A carrier for erisfs: blocks as files of a folder. Usage: --blocks "exec:folder.py FOLDER" """
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

folder, lock = sys.argv[1], Lock()
os.makedirs(folder, exist_ok=True)


def say(number, line, block=b""):
    with lock:  # answers may come in any order, but each in one piece
        sys.stdout.buffer.write(b"%d %s\n" % (number, line.encode()) + block)
        sys.stdout.buffer.flush()


def answer(number, verb, path, block):
    try:
        if verb == "put":
            with open(path + ".part%d" % number, "wb") as file:
                file.write(block)
            os.rename(path + ".part%d" % number, path)
            say(number, "stored")
        elif not os.path.exists(path):
            say(number, "absent")
        elif verb == "has":
            say(number, "present")
        else:
            block = open(path, "rb").read()
            say(number, "block %d" % len(block), block)
    except OSError as error:
        say(number, "error %s" % error)


print("erisfs-carrier 1 get put has concurrency=8", flush=True)
with ThreadPoolExecutor(8) as pool:
    while line := sys.stdin.buffer.readline():
        number, verb, reference, *length = line.decode().split()
        block = sys.stdin.buffer.read(int(length[0])) if length else b""
        pool.submit(answer, int(number), verb, os.path.join(folder, reference), block)
