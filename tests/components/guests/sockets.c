#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* WASI 0.2's sockets as the canonical ABI lowers them: no bindings are generated. */
#define IMPORT(module, name) __attribute__((import_module(module "@0.2.12"), import_name(name)))
#define TCP "wasi:sockets/tcp"
#define UDP "wasi:sockets/udp"
#define STREAMS "wasi:io/streams"
#define LOOKUP "wasi:sockets/ip-name-lookup"
typedef int32_t handle;

/* variant ip-socket-address: a case, then the joined fields of both. */
#define ADDRESS int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, \
                int32_t, int32_t, int32_t
#define IPV4(port, a, b, c, d) 0, port, a, b, c, d, 0, 0, 0, 0, 0, 0

IMPORT("wasi:sockets/instance-network", "instance-network") handle instance_network(void);
IMPORT("wasi:sockets/tcp-create-socket", "create-tcp-socket") void create_tcp(int32_t, void *);
IMPORT(TCP, "[method]tcp-socket.start-bind") void start_bind(handle, handle, ADDRESS, void *);
IMPORT(TCP, "[method]tcp-socket.finish-bind") void finish_bind(handle, void *);
IMPORT(TCP, "[method]tcp-socket.start-listen") void start_listen(handle, void *);
IMPORT(TCP, "[method]tcp-socket.finish-listen") void finish_listen(handle, void *);
IMPORT(TCP, "[method]tcp-socket.accept") void tcp_accept(handle, void *);
IMPORT(TCP, "[method]tcp-socket.start-connect") void start_connect(handle, handle, ADDRESS, void *);
IMPORT(TCP, "[method]tcp-socket.finish-connect") void finish_connect(handle, void *);
IMPORT(TCP, "[method]tcp-socket.subscribe") handle tcp_subscribe(handle);
IMPORT(TCP, "[method]tcp-socket.shutdown") void tcp_shutdown(handle, int32_t, void *);
IMPORT(TCP, "[resource-drop]tcp-socket") void drop_tcp(handle);
IMPORT("wasi:io/poll", "[method]pollable.block") void block(handle);
IMPORT("wasi:io/poll", "[resource-drop]pollable") void drop_pollable(handle);
IMPORT(STREAMS, "[method]input-stream.blocking-read") void blocking_read(handle, int64_t, void *);
IMPORT(STREAMS, "[method]output-stream.blocking-write-and-flush")
void write_and_flush(handle, const void *, int32_t, void *);
IMPORT(STREAMS, "[method]output-stream.check-write") void check_write(handle, void *);
IMPORT(STREAMS, "[method]output-stream.write") void write_some(handle, const void *, int32_t, void *);
IMPORT(STREAMS, "[method]output-stream.subscribe") handle output_subscribe(handle);
IMPORT(STREAMS, "[resource-drop]input-stream") void drop_input(handle);
IMPORT(STREAMS, "[resource-drop]output-stream") void drop_output(handle);
IMPORT("wasi:sockets/udp-create-socket", "create-udp-socket") void create_udp(int32_t, void *);
IMPORT(UDP, "[method]udp-socket.start-bind") void udp_start_bind(handle, handle, ADDRESS, void *);
IMPORT(UDP, "[method]udp-socket.finish-bind") void udp_finish_bind(handle, void *);
IMPORT(UDP, "[method]udp-socket.stream") void udp_stream(handle, int32_t, ADDRESS, void *);
IMPORT(UDP, "[method]incoming-datagram-stream.receive") void receive(handle, int64_t, void *);
IMPORT(UDP, "[method]incoming-datagram-stream.subscribe") handle incoming_subscribe(handle);
IMPORT(UDP, "[method]outgoing-datagram-stream.check-send") void check_send(handle, void *);
IMPORT(UDP, "[method]outgoing-datagram-stream.send") void udp_send(handle, void *, int32_t, void *);
IMPORT(LOOKUP, "resolve-addresses") void resolve(handle, const void *, int32_t, void *);
IMPORT(LOOKUP, "[method]resolve-address-stream.resolve-next-address") void next_address(handle, void *);

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, size_t old_size,
                                                                size_t alignment, size_t size) {
  (void)old_size, (void)alignment;
  return realloc(old, size);
}

static const char *const ERRORS[] = {
    "unknown", "access-denied", "not-supported", "invalid-argument", "out-of-memory", "timeout",
    "concurrency-conflict", "not-in-progress", "would-block", "invalid-state", "new-socket-limit",
    "address-not-bindable", "address-in-use", "remote-unreachable", "connection-refused",
    "connection-reset", "connection-aborted", "datagram-too-large", "name-unresolvable",
    "temporary-resolver-failure", "permanent-resolver-failure"};

static uint8_t result[64] __attribute__((aligned(8)));

/* Whether the call went well; says what it did not do. `at` is where its error lies. */
static int ok(const char *what, int at) {
  if (result[0]) printf("%s: %s\n", what, ERRORS[result[at]]);
  return !result[0];
}

static handle word(int at) {
  handle value;
  memcpy(&value, result + at, 4);
  return value;
}

static handle new_tcp(void) {
  create_tcp(0, result);
  if (!ok("create", 4)) exit(1);
  return word(4);
}

static size_t read_head(handle input, char *buffer, size_t size) {
  size_t length = 0;
  buffer[0] = 0;
  while (!strstr(buffer, "\r\n\r\n")) {
    blocking_read(input, size - 1 - length, result);
    if (result[0]) break;
    memcpy(buffer + length, (void *)word(4), word(8));
    length += word(8);
    free((void *)word(4));
    buffer[length] = 0;
  }
  return length;
}

static handle new_server(handle network, int port) {
  handle server = new_tcp();
  start_bind(server, network, IPV4(port, 0, 0, 0, 0), result);
  if (!ok("bind", 1)) exit(1);
  finish_bind(server, result);
  start_listen(server, result);
  if (!ok("listen", 1)) exit(1);
  finish_listen(server, result);
  return server;
}

static void wait_for_client(handle server, handle pollable) {
  for (;;) {
    tcp_accept(server, result);
    if (!result[0]) return;
    if (result[4] != 8) exit(ok("accept", 4) + 1);
    block(pollable);
  }
}

/* Writes whenever there is room, without a flush at the end. */
static int pour(handle network, int port, int length) {
  static char data[8192];
  handle server = new_server(network, port);
  wait_for_client(server, tcp_subscribe(server));
  handle client = word(4), input = word(8), output = word(12);
  handle pollable = output_subscribe(output);
  while (length) {
    int64_t room;
    check_write(output, result);
    if (result[0]) return 1;
    memcpy(&room, result + 8, 8);
    if (!room) {
      block(pollable);
      continue;
    }
    if (room > sizeof data) room = sizeof data;
    if (room > length) room = length;
    write_some(output, data, room, result);
    if (result[0]) return 1;
    length -= room;
  }
  drop_pollable(pollable), drop_output(output), drop_input(input), drop_tcp(client);
  return 0;
}

static int serve(handle network, int port, int count) {
  handle server = new_server(network, port);
  handle pollable = tcp_subscribe(server);
  while (count--) {
    wait_for_client(server, pollable);
    handle client = word(4), input = word(8), output = word(12);
    char request[4096], answer[512];
    read_head(input, request, sizeof request);
    *strchrnul(request, '\r') = 0;
    int length = snprintf(answer, sizeof answer,
                          "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s\n",
                          strlen(request) + 1, request);
    write_and_flush(output, answer, length, result);
    tcp_shutdown(client, 1, result);
    drop_input(input), drop_output(output), drop_tcp(client);
  }
  drop_pollable(pollable);
  drop_tcp(server);
  return 0;
}

static int fetch(handle network, int port) {
  handle client = new_tcp();
  start_connect(client, network, IPV4(port, 127, 0, 0, 1), result);
  if (!ok("connect", 1)) return 1;
  finish_connect(client, result);
  if (!ok("finish-connect", 4)) return 1;
  handle input = word(4), output = word(8);
  write_and_flush(output, "question\n", 9, result);
  tcp_shutdown(client, 1, result);
  for (;;) {
    blocking_read(input, 1024, result);
    if (result[0]) break;
    fwrite((void *)word(4), 1, word(8), stdout);
  }
  drop_tcp(client), drop_input(input), drop_output(output);
  return 0;
}

static int ask_by_udp(handle network, int port) {
  create_udp(0, result);
  handle socket = word(4);
  udp_start_bind(socket, network, IPV4(0, 0, 0, 0, 0), result);
  if (!ok("bind", 1)) return 1;
  udp_finish_bind(socket, result);
  udp_stream(socket, 1, IPV4(port, 127, 0, 0, 1), result);
  if (!ok("stream", 4)) return 1;
  handle incoming = word(4), outgoing = word(8);
  check_send(outgoing, result);
  struct { const char *data; int32_t length; int32_t no_address[10]; } datagram = {"ping", 4, {0}};
  udp_send(outgoing, &datagram, 1, result);
  if (!ok("send", 8)) return 1;
  block(incoming_subscribe(incoming));
  receive(incoming, 4, result);
  if (!ok("receive", 4)) return 1;
  struct { const char *data; int32_t length; } *received = (void *)word(4);
  printf("%.*s\n", (int)received->length, received->data);
  return 0;
}

static int look_up(handle network, const char *name) {
  resolve(network, name, strlen(name), result);
  if (!ok("resolve", 4)) return 1;
  handle found = word(4);
  for (;;) {
    next_address(found, result);
    if (!ok("next", 2)) return 1;
    if (!result[2]) return 0;
    if (result[4] == 0) printf("%d.%d.%d.%d\n", result[6], result[7], result[8], result[9]);
    else printf("v6\n");
  }
}

int main(int argc, char **argv) {
  handle network = instance_network();
  int number = argc > 2 ? atoi(argv[2]) : 0;
  if (!strcmp(argv[1], "serve")) return serve(network, number, argc > 3 ? atoi(argv[3]) : 1);
  if (!strcmp(argv[1], "pour")) return pour(network, number, atoi(argv[3]));
  if (!strcmp(argv[1], "fetch")) return fetch(network, number);
  if (!strcmp(argv[1], "udp")) return ask_by_udp(network, number);
  if (!strcmp(argv[1], "lookup")) return look_up(network, argv[2]);
  return 2;
}
