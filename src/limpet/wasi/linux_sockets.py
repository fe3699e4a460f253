"""Linux' numbers for sockets, the same on x86-64 and aarch64.

Engines are loaded without Python's `socket`, which not every guest needs. Sources:
asm-generic/socket.h, linux/socket.h, linux/tcp.h.
"""

from __future__ import annotations

AF_INET, AF_INET6 = 2, 10
IPPROTO_TCP = 6
TCP_NODELAY = 1
SOL_SOCKET = 1
SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_LINGER = 4, 7, 8, 13
MSG_PEEK, MSG_TRUNC, MSG_NOSIGNAL = 0x2, 0x20, 0x4000
SHUT_RD, SHUT_WR, SHUT_RDWR = 0, 1, 2
