/* Connects to 127.0.0.1 at port=N and prints what it is told, or the WASI error of the step that failed. */
#include <stdint.h>

#include "guest.h"

#define SOCKET_IMPORT(name) \
    __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

struct address {
    const uint8_t *bytes;
    size_t length;
};

struct buffer {
    void *bytes;
    size_t length;
};

SOCKET_IMPORT(sock_open) int32_t sock_open(int32_t family, int32_t type, int32_t *socket);
SOCKET_IMPORT(sock_connect) int32_t sock_connect(int32_t socket, struct address *address, int32_t port);
SOCKET_IMPORT(sock_recv) int32_t sock_recv(int32_t socket, const struct buffer *buffers, size_t count,
    int32_t flags, size_t *received, uint16_t *received_flags);

int main(void)
{
    static const uint8_t loopback[4] = {127, 0, 0, 1};
    struct address address = {loopback, sizeof loopback};
    char text[256];
    struct buffer buffer = {text, sizeof text};
    int32_t socket;
    size_t received;
    uint16_t flags;

    printf("Content-Type: text/plain\n\n");
    int32_t error = sock_open(1, 2, &socket);
    if (error != 0) return printf("open: %d\n", (int)error) < 0;
    error = sock_connect(socket, &address, (int32_t)parameter("port", 1));
    if (error != 0) return printf("connect: %d\n", (int)error) < 0;
    error = sock_recv(socket, &buffer, 1, 0, &received, &flags);
    if (error != 0) return printf("recv: %d\n", (int)error) < 0;
    printf("%.*s\n", (int)received, text);
    return 0;
}
