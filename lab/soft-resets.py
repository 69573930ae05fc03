"""Has a test guest reset itself again and again, and waits each time until it is back.

  soft-resets.py DOMID COUNT

Ends with 0 when all went well, and prints the guest's heartbeat and the rate.
"""

import socket
import struct
import sys
import time

READ, WATCH, WRITE, EVENT, ERROR = 2, 4, 11, 15, 16
LIMIT_S = 30


class Store:
    """xenstored, over its socket: one request at a time."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect("/run/xenstored/socket")

    def ask(self, kind, payload):
        self.socket.sendall(struct.pack("<IIII", kind, 0, 0, len(payload)) + payload)
        while True:
            answer, reply = self.packet()
            if answer != EVENT:
                return None if answer == ERROR else reply

    def packet(self):
        kind, _, _, length = struct.unpack("<IIII", self.receive(16))
        return kind, self.receive(length)

    def receive(self, length):
        data = b""
        while len(data) < length:
            try:
                piece = self.socket.recv(length - len(data))
            except TimeoutError:
                sys.exit(f"nothing happened within {LIMIT_S} s")
            if not piece:
                sys.exit("xenstored has closed the connection")
            data += piece
        return data

    def read(self, path):
        return self.ask(READ, path.encode() + b"\0")

    def write(self, path, value):
        if self.ask(WRITE, path.encode() + b"\0" + value.encode()) is None:
            sys.exit(f"cannot write {path}")


def main():
    domid, count = int(sys.argv[1]), int(sys.argv[2])
    store, home = Store(), f"/local/domain/{domid}"
    store.ask(WATCH, f"{home}/data/state\0state\0".encode())
    start = time.monotonic()
    for _ in range(count):
        # A reset removes what the guest owns, and that is the guest's as soon as it is there.
        store.write(f"{home}/data/before-reset", "x")
        store.write(f"{home}/data/command", "shutdown soft_reset")
        while store.read(f"{home}/data/before-reset") is not None or store.read(f"{home}/data/state") != b"up":
            store.packet()
    rate = count / (time.monotonic() - start)
    heartbeat = (store.read(f"{home}/data/heartbeat") or b"?").decode()
    print(f"{count} resets, heartbeat {heartbeat}, {rate:.1f} a second", flush=True)


main()
