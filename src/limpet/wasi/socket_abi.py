"""Shapes of WasmEdge's socket extension as they cross the boundary: records, options, flags.

The extension adds functions to `wasi_snapshot_preview1`; their signatures are in
`limpet.wasi.abi`. Sources: WasmEdge 0.14.1 and 0.17.1, `thirdparty/wasi/api.hpp` (numbers and
records), `lib/host/wasi/wasifunc.cpp` (what each call reads and writes),
`include/host/wasi/environ.h` (WasiAddrStorage), and the crate `wasmedge_wasi_socket` 0.4.3 and
0.5.5, which is how most guests call it. Little-endian throughout.
"""

from __future__ import annotations

from struct import Struct

# __wasi_address_family_t, __wasi_sock_type_t, __wasi_protocol_t
FAMILY_UNSPEC, FAMILY_INET4, FAMILY_INET6, FAMILY_UNIX = range(4)
TYPE_ANY, TYPE_DATAGRAM, TYPE_STREAM = range(3)
PROTOCOL_IP, PROTOCOL_TCP, PROTOCOL_UDP = range(3)
# What the first versions of getlocaladdr and getpeeraddr call the families.
V1_FAMILY_INET4, V1_FAMILY_INET6 = 4, 6

# __wasi_address_t: where an address is and how long. 4 or 16 bytes are the address itself; 128 are a
# u16 family with the address behind it.
ADDRESS = Struct("<II")
INET4_BYTES, INET6_BYTES, STORAGE_BYTES = 4, 16, 128
STORAGE_FAMILY = Struct("<H")

# __wasi_addrinfo_t: flags, family, type, protocol, addrlen, addr, canonname, its length, next
ADDRINFO = Struct("<HBBBxxxIIIII")
ADDRINFO_NEXT_OFFSET = 24
# __wasi_sockaddr_t: family, length of the data, the data
SOCKADDR = Struct("<BxxxII")
# Its data, as `struct sockaddr_in` and `sockaddr_in6` have it behind their family, in network order
INET4_DATA = Struct("!H4s8x")
INET6_DATA = Struct("!HI16sI")
# ai_addrlen is the host's: sizes of these two structures on Linux
INET4_ADDRLEN, INET6_ADDRLEN = 16, 28
AIFLAGS_CANONNAME, AIFLAGS_NUMERICHOST, AIFLAGS_NUMERICSERV = 1 << 1, 1 << 2, 1 << 3
AIFLAGS_ALL = 0x7F
# The call's own error numbers, beyond those of preview 1
ERRNO_AI_BADFLAGS = 79
ERRNO_AI_FAMILY = 81
ERRNO_AI_MEMORY = 82
ERRNO_AI_NONAME = 84
ERRNO_AI_SERVICE = 85

# __wasi_sock_opt_level_t, __wasi_sock_opt_so_t
LEVEL_SOCKET = 0
(
    SO_REUSEADDR,
    SO_TYPE,
    SO_ERROR,
    SO_DONTROUTE,
    SO_BROADCAST,
    SO_SNDBUF,
    SO_RCVBUF,
    SO_KEEPALIVE,
    SO_OOBINLINE,
    SO_LINGER,
    SO_RCVLOWAT,
    SO_RCVTIMEO,
    SO_SNDTIMEO,
    SO_ACCEPTCONN,
    SO_BINDTODEVICE,
) = range(15)
# Options' values are the 64-bit host's: a C int, `struct linger`, `struct timeval`.
INT = Struct("<i")
LINGER = Struct("<ii")
TIMEVAL = Struct("<qq")

# Flags of preview 1 that only sockets know.
RIFLAGS_PEEK, RIFLAGS_WAITALL = 1, 2
ROFLAGS_TRUNCATED = 1
SDFLAGS_READ, SDFLAGS_WRITE = 1, 2
MAX_VECTORS = 1024
