"""A userspace delay line for kernels without sch_netem.

Reads the frames that `tc mirred` redirects from DEV to a TAP device, holds each
for MS milliseconds (dropping LOSS percent), and puts it on the wire of DEV past
its queueing discipline (PACKET_QDISC_BYPASS), so that it is not redirected again.
"""

import collections
import contextlib
import fcntl
import os
import random
import select
import socket
import struct
import sys
import time

dev, tap, ms, loss = sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1e3, float(sys.argv[4]) / 100
t = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(t, 0x400454CA, struct.pack("16sH", tap.encode(), 0x0002 | 0x1000))  # TUNSETIFF, TAP|NO_PI
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind((dev, 0))
s.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
q = collections.deque()
while True:
    wait = max(0.0, q[0][0] - time.monotonic()) if q else 5.0
    if select.select([t], [], [], wait)[0]:
        now = time.monotonic()
        for _ in range(256):
            try:
                f = os.read(t, 65536)
            except BlockingIOError:
                break
            if loss and random.random() < loss:
                continue
            q.append((now + ms, f))
    now = time.monotonic()
    while q and q[0][0] <= now:
        with contextlib.suppress(OSError):  # cable out, or a full device queue: the frame is lost
            s.send(q.popleft()[1])
