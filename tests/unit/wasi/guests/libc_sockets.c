// How wasi-libc's own functions see sockets: they ask preview 1 about the descriptor.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
struct address { const void *bytes; size_t length; };
IMPORT(sock_open) int sock_open(int family, int type, int *fd);
IMPORT(sock_connect) int sock_connect(int fd, struct address *address, int port);
IMPORT(sock_bind) int sock_bind(int fd, struct address *address, int port);
IMPORT(sock_listen) int sock_listen(int fd, int backlog);

static int check(const char *what, int right)
{
    if (!right) printf("%s (errno %d)\n", what, errno);
    return right;
}

int main(void)
{
    static const unsigned char any[4];
    struct address address = {any, sizeof any};
    int listener;
    check("open", sock_open(1, 2, &listener) == 0);
    check("bind", sock_bind(listener, &address, 8080) == 0);
    check("listen", sock_listen(listener, 5) == 0);
    check("non-blocking", fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK) == 0);
    struct pollfd poller = {.fd = listener, .events = POLLIN};
    check("poll", poll(&poller, 1, 10000) == 1 && poller.revents == POLLIN);
    int client = accept(listener, NULL, NULL);
    check("accept", client >= 0);
    check("accept again", accept(listener, NULL, NULL) < 0 && errno == EAGAIN);
    check("flags", (fcntl(client, F_GETFL) & (O_RDWR | O_NONBLOCK)) == O_RDWR);
    struct stat status;
    check("fstat", fstat(client, &status) == 0 && S_ISSOCK(status.st_mode));
    int type; socklen_t length = sizeof type;
    check("type", getsockopt(client, SOL_SOCKET, SO_TYPE, &type, &length) == 0
        && type == SOCK_STREAM);
    char bytes[100];
    ssize_t count = recv(client, bytes, sizeof bytes, MSG_PEEK);
    check("peek", count == 5);
    check("read", read(client, bytes, sizeof bytes) == 5 && memcmp(bytes, "hello", 5) == 0);
    check("send", send(client, "good", 4, 0) == 4 && write(client, "bye", 3) == 3);
    check("shutdown", shutdown(client, SHUT_WR) == 0);
    check("end", recv(client, bytes, sizeof bytes, 0) == 0);
    check("lseek", lseek(client, 0, SEEK_CUR) < 0 && errno == ESPIPE);
    check("isatty", !isatty(client));
    check("close", close(client) == 0 && close(listener) == 0);
    puts("done");
}
