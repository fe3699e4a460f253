/* WasmEdge's socket extension to WASI preview 1, as far as a TCP server needs it.
 *
 * The functions live in the same module as preview 1's. Each returns 0 or a WASI error number.
 */
#ifndef SOCKETS_H
#define SOCKETS_H

#include <stddef.h>
#include <stdint.h>

#define SOCKET_IMPORT(name) \
    __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

enum { SOCKET_INET4 = 1, SOCKET_INET6 = 2 };
enum { SOCKET_DATAGRAM = 1, SOCKET_STREAM = 2 };

/* 4 or 16 bytes of address, in network order; ports are plain numbers beside it. */
struct socket_address {
    const uint8_t *bytes;
    size_t length;
};

struct socket_buffer {
    void *bytes;
    size_t length;
};

SOCKET_IMPORT(sock_open) int32_t sock_open(int32_t family, int32_t type, int32_t *socket);
SOCKET_IMPORT(sock_bind) int32_t sock_bind(int32_t socket, struct socket_address *address, int32_t port);
SOCKET_IMPORT(sock_listen) int32_t sock_listen(int32_t socket, int32_t backlog);
SOCKET_IMPORT(sock_accept) int32_t sock_accept(int32_t socket, int32_t *client);
SOCKET_IMPORT(sock_recv) int32_t sock_recv(int32_t socket, const struct socket_buffer *buffers,
    size_t count, int32_t flags, size_t *received, uint16_t *received_flags);
SOCKET_IMPORT(sock_send) int32_t sock_send(int32_t socket, const struct socket_buffer *buffers,
    size_t count, int32_t flags, size_t *sent);

#endif
