/* An HTTP/1.1 server that opens its own socket: no trigger turns requests into CGI for it.
 *
 * One loop over poll_oneoff serves many clients at once, each on a non-blocking connection that
 * is kept open. PORT in the environment says where to listen; it must be one of the app's ports.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <wasi/api.h>

#include "sockets.h"

enum {
    CLIENTS = 256,
    REQUEST_BYTES = 4096,
    RESPONSE_BYTES = 1024,
    PATH_BYTES = 256,
    BACKLOG = 128,
};

struct client {
    int32_t socket;
    bool is_open;
    bool is_closing;   /* as soon as the response is sent */
    unsigned requests; /* so far */
    uint64_t skip;     /* bytes of a request's body that are still to come */
    size_t received;
    size_t sent, length; /* of the response */
    char request[REQUEST_BYTES];
    char response[RESPONSE_BYTES];
};

static struct client clients[CLIENTS];
static size_t open_clients;

static void fail(const char *what, int32_t error)
{
    fprintf(stderr, "%s: WASI error %d\n", what, (int)error);
    exit(EXIT_FAILURE);
}

static void hang_up(struct client *client)
{
    close(client->socket);
    client->is_open = false;
    open_clients--;
}

static void answer(struct client *client, const char *status, const char *body)
{
    int length = snprintf(client->response, RESPONSE_BYTES,
        "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n%s\r\n%s",
        status, strlen(body), client->is_closing ? "Connection: close\r\n" : "", body);
    client->sent = 0;
    client->length = (size_t)length;
}

static void refuse(struct client *client, const char *status)
{
    client->is_closing = true;
    client->skip = 0;
    client->received = 0;
    answer(client, status, "");
}

/* The value of a header within a head that ends with an empty line; NULL without it. */
static const char *header(const char *head, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            line += length + 1;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

static bool says(const char *value, const char *word)
{
    return value != NULL && strncasecmp(value, word, strlen(word)) == 0;
}

/* Answer the first request of those received; false while its head isn't complete. */
static bool serve(struct client *client)
{
    client->request[client->received] = '\0';
    char *end = strstr(client->request, "\r\n\r\n");
    if (end == NULL) {
        if (strlen(client->request) < client->received) refuse(client, "400 Bad Request");
        else if (client->received == REQUEST_BYTES - 1) refuse(client, "431 Request Header Fields Too Large");
        return client->length > 0;
    }
    end += 4;
    char after = *end;
    *end = '\0';

    char method[16], path[PATH_BYTES];
    int minor;
    if (sscanf(client->request, "%15s %255s HTTP/1.%1d", method, path, &minor) != 3) {
        refuse(client, "400 Bad Request");
        return true;
    }
    if (header(client->request, "Transfer-Encoding") != NULL) {
        refuse(client, "501 Not Implemented");
        return true;
    }
    const char *connection = header(client->request, "Connection");
    client->is_closing = minor == 0 ? !says(connection, "keep-alive") : says(connection, "close");
    const char *length = header(client->request, "Content-Length");
    client->skip = length == NULL ? 0 : strtoull(length, NULL, 10);
    client->requests++;

    char body[RESPONSE_BYTES / 2];
    snprintf(body, sizeof body, "Hello from a socket!\n%s %s is request %u of this connection.\n",
        method, path, client->requests);
    answer(client, "200 OK", strcmp(method, "HEAD") == 0 ? "" : body);

    size_t used = (size_t)(end - client->request);
    *end = after;
    client->received -= used;
    memmove(client->request, end, client->received);
    return true;
}

/* Pass over a body's bytes at the start of what was received. */
static void skip_body(struct client *client)
{
    size_t length = client->skip < client->received ? (size_t)client->skip : client->received;
    client->skip -= length;
    client->received -= length;
    memmove(client->request, client->request + length, client->received);
}

/* Send what there is to send. Returns whether all of it is gone; the client may be, too. */
static bool flush_response(struct client *client)
{
    struct socket_buffer buffer = {client->response + client->sent, client->length - client->sent};
    size_t sent;
    int32_t error = sock_send(client->socket, &buffer, 1, 0, &sent);
    if (error == __WASI_ERRNO_AGAIN) return false;
    if (error != 0) {
        hang_up(client);
        return false;
    }
    client->sent += sent;
    if (client->sent < client->length) return false;
    client->sent = client->length = 0;
    if (client->is_closing) hang_up(client);
    return client->is_open;
}

/* Answer whatever is complete, as long as the answers can be sent. */
static void answer_all(struct client *client)
{
    do {
        if (client->skip > 0) skip_body(client);
        if (client->skip > 0 || client->received == 0 || !serve(client)) return;
    } while (flush_response(client));
}

static void receive(struct client *client)
{
    struct socket_buffer buffer = {
        client->request + client->received, REQUEST_BYTES - 1 - client->received};
    size_t received;
    uint16_t flags;
    int32_t error = sock_recv(client->socket, &buffer, 1, 0, &received, &flags);
    if (error == __WASI_ERRNO_AGAIN) return;
    if (error != 0 || received == 0) {
        hang_up(client);
        return;
    }
    client->received += received;
    answer_all(client);
}

static void set_non_blocking(int32_t socket)
{
    int32_t error = __wasi_fd_fdstat_set_flags(socket, __WASI_FDFLAGS_NONBLOCK);
    if (error != 0) fail("set flags", error);
}

static void welcome(int32_t listener)
{
    struct client *client = clients;
    while (client->is_open) client++;
    int32_t socket;
    int32_t error = sock_accept(listener, &socket);
    if (error == __WASI_ERRNO_AGAIN) return;
    if (error != 0) fail("accept", error);
    set_non_blocking(socket);
    *client = (struct client){.socket = socket, .is_open = true};
    open_clients++;
}

static int32_t start(int port)
{
    static const uint8_t any[4];
    struct socket_address address = {any, sizeof any};
    int32_t listener;
    int32_t error = sock_open(SOCKET_INET4, SOCKET_STREAM, &listener);
    if (error != 0) fail("open", error);
    error = sock_bind(listener, &address, port);
    if (error != 0) fail("bind", error);
    error = sock_listen(listener, BACKLOG);
    if (error != 0) fail("listen", error);
    set_non_blocking(listener);
    return listener;
}

static __wasi_subscription_t subscribe(int32_t socket, uint8_t what, size_t userdata)
{
    __wasi_subscription_t subscription = {.userdata = userdata, .u.tag = what};
    subscription.u.u.fd_read.file_descriptor = socket; /* fd_write has it in the same place */
    return subscription;
}

int main(void)
{
    const char *port = getenv("PORT");
    int32_t listener = start(port == NULL ? 8080 : atoi(port));
    static __wasi_subscription_t subscriptions[CLIENTS + 1];
    static __wasi_event_t events[CLIENTS + 1];
    for (;;) {
        size_t count = 0;
        if (open_clients < CLIENTS) {
            subscriptions[count++] = subscribe(listener, __WASI_EVENTTYPE_FD_READ, CLIENTS);
        }
        for (size_t i = 0, seen = 0; seen < open_clients; i++) {
            struct client *client = &clients[i];
            if (!client->is_open) continue;
            seen++;
            uint8_t what = client->length > 0 ? __WASI_EVENTTYPE_FD_WRITE : __WASI_EVENTTYPE_FD_READ;
            subscriptions[count++] = subscribe(client->socket, what, i);
        }
        size_t ready;
        int32_t error = __wasi_poll_oneoff(subscriptions, events, count, &ready);
        if (error != 0) fail("poll", error);
        for (size_t i = 0; i < ready; i++) {
            struct client *client = &clients[events[i].userdata];
            if (events[i].userdata == CLIENTS) welcome(listener);
            else if (client->length > 0) {
                if (flush_response(client)) answer_all(client);
            } else receive(client);
        }
    }
}
