"""A way to xenstored that fails on purpose: store-proxy.py LISTEN REAL PLAN

PLAN is a file that is read for each connection. It holds one of
  pass          hand everything on
  quota N       answer the Nth request that writes as xenstored does over a quota, and do not hand it on
  silent N      hand N requests on, and never answer again
"""
import socket
import struct
import sys
import threading

HEADER = struct.Struct("<IIII")
ERROR, EVENT = 16, 15
WRITE, MKDIR, SET_PERMS = 11, 12, 14


def exactly(stream, size):
    found = b""
    while len(found) < size:
        more = stream.recv(size - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def packet(stream):
    header = exactly(stream, HEADER.size)
    kind, request, transaction, size = HEADER.unpack(header)
    return kind, (request, transaction), header + exactly(stream, size)


def replies(server, client, lock):
    """Hands on what xenstored says."""
    try:
        while True:
            kind, _, whole = packet(server)
            with lock:
                client.sendall(whole)
                lock.answered += kind != EVENT
                lock.notify_all()
    except (EOFError, OSError):
        client.close()


def serve(client, real, plan):
    word, *number = plan.split()
    left = int(number[0]) if number else -1
    server = socket.socket(socket.AF_UNIX)
    server.connect(real)
    lock = threading.Condition()
    lock.answered = 0
    threading.Thread(target=replies, args=(server, client, lock), daemon=True).start()
    asked = 0
    try:
        while True:
            kind, ids, whole = packet(client)
            if word == "silent":
                if left == 0:
                    continue
                left -= 1
            elif word == "quota" and kind in (WRITE, MKDIR, SET_PERMS):
                left -= 1
                if left == 0:
                    with lock:
                        # Answers come in the order of the requests.
                        lock.wait_for(lambda: lock.answered == asked)
                        client.sendall(HEADER.pack(ERROR, *ids, 7) + b"ENOSPC\0")
                    continue
            asked += 1
            server.sendall(whole)
    except (EOFError, OSError):
        server.close()


def main(listen, real, plan):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(listen)
    listener.listen(8)
    while True:
        client, _ = listener.accept()
        with open(plan) as file:
            threading.Thread(target=serve, args=(client, real, file.read()), daemon=True).start()


main(*sys.argv[1:])
