/* Sends one header that must not reach a client as it is; `kind` says which. */
#include "guest.h"

#define HEADER(kind, bytes) {kind, bytes, sizeof bytes - 1}

static const struct {
    const char *kind, *bytes;
    size_t length;
} headers[] = {
    HEADER("cr", "X-Bad: a\rSet-Cookie: stolen=1\n"), /* a bare CR: some clients end a line there */
    HEADER("nul", "X-Bad: a\0b\n"),
    HEADER("control", "X-Bad: a\x01\x7f" "b\n"),
    HEADER("space", "X Bad: a\n"),
    HEADER("space_before_colon", "X-Bad : a\n"),
    HEADER("no_colon", "X-Bad\n"),
    HEADER("no_name", ": a\n"),
    HEADER("fold", "X-Bad: a\n b\n"), /* a continuation line, which RFC 9112 forbids */
    HEADER("non_ascii", "X-Bad: \xff\xfe\n"),
    HEADER("chunked", "Transfer-Encoding: chunked\n"),
    HEADER("length", "Content-Length: 100000\n"),
    HEADER("short_length", "Content-Length: 1\n"),
    HEADER("negative_length", "Content-Length: -1\n"),
    HEADER("two_lengths", "Content-Length: 5\nContent-Length: 6\n"),
    HEADER("connection", "Connection: close, x-secret\n"),
    HEADER("upgrade", "Upgrade: h2c\n"),
    HEADER("two_types", "Content-Type: text/html\n"),
    HEADER("status_line", "HTTP/1.1 200 OK\n"),
};

int main(void)
{
    const char *kind = text_parameter("kind", "cr");
    if (strcmp(kind, "long") == 0) {
        printf("X-Bad: ");
        for (int i = 0; i < 1 << 20; i++) putchar('a');
        printf("\n");
    } else if (strcmp(kind, "many") == 0) {
        for (int i = 0; i < 10000; i++) printf("X-Bad-%d: a\n", i);
    }
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        if (strcmp(headers[i].kind, kind) != 0) continue;
        fwrite(headers[i].bytes, 1, headers[i].length, stdout);
    }
    printf("Content-Type: text/plain\n\nbody\n");
    return 0;
}
