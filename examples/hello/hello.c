/* The smallest honest handler: greets, and says what was asked.
 *
 * A handler is a program that reads its request from the environment and standard input and
 * writes a response to standard output (CGI/1.1, RFC 3875). This one is also what benchmarks
 * run, so it takes three host calls and no heap: getenv() and printf() would do as well, but
 * growing the heap for getenv's copy alone takes a sixth of such a short program's time.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wasi/api.h>

enum {
    VARIABLES = 512,
    ENVIRONMENT_BYTES = 16384,
    NAME_BYTES = 64,
    PATH_BYTES = 256,
    METHOD_BYTES = 16,
    RESPONSE_BYTES = 512,
};

struct text {
    char bytes[RESPONSE_BYTES];
    size_t length;
};

/* Append at most `limit` bytes of `s`; whatever doesn't fit is left out. */
static void append(struct text *text, const char *s, size_t limit)
{
    size_t room = sizeof text->bytes - text->length;
    size_t length = strnlen(s, limit < room ? limit : room);
    memcpy(text->bytes + text->length, s, length);
    text->length += length;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Copy the query's `name` into `name`, percent-decoded and without control characters.
 * Without one, or with an empty one, the name stays "world". */
static void parse_name(const char *query, char name[static NAME_BYTES])
{
    strcpy(name, "world");
    while (strncmp(query, "name=", 5) != 0) {
        query = strchr(query, '&');
        if (query == NULL) return;
        query++;
    }
    size_t length = 0;
    for (const char *p = query + 5; *p != '\0' && *p != '&' && length < NAME_BYTES - 1; p++) {
        int c = (unsigned char)*p;
        if (c == '+') {
            c = ' ';
        } else if (c == '%' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0) {
            c = hex_digit(p[1]) << 4 | hex_digit(p[2]);
            p += 2;
        }
        name[length++] = (char)(c < 0x20 || c == 0x7f ? '?' : c);
    }
    if (length > 0) name[length] = '\0';
}

static uint8_t *environment[VARIABLES];

/* Returns whether the whole environment fits. */
static int read_environment(void)
{
    static uint8_t bytes[ENVIRONMENT_BYTES];
    __wasi_size_t count, size;
    if (__wasi_environ_sizes_get(&count, &size) != 0) return 0;
    if (count >= VARIABLES || size > sizeof bytes) return 0; /* the last stays NULL */
    return __wasi_environ_get(environment, bytes) == 0;
}

static const char *variable(const char *name, const char *otherwise)
{
    size_t length = strlen(name);
    for (uint8_t **item = environment; *item != NULL; item++) {
        const char *text = (const char *)*item;
        if (strncmp(text, name, length) == 0 && text[length] == '=') return text + length + 1;
    }
    return otherwise;
}

static int send(const struct text *response)
{
    ssize_t written = write(STDOUT_FILENO, response->bytes, response->length);
    return written == (ssize_t)response->length ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(void)
{
    struct text response = {.length = 0};
    if (!read_environment()) {
        append(&response, "Status: 431\n\n", RESPONSE_BYTES);
        return send(&response);
    }
    char name[NAME_BYTES];
    parse_name(variable("QUERY_STRING", ""), name);
    append(&response, "Content-Type: text/plain; charset=utf-8\n\nHello, ", RESPONSE_BYTES);
    append(&response, name, NAME_BYTES);
    append(&response, "!\nYou sent ", RESPONSE_BYTES);
    append(&response, variable("REQUEST_METHOD", "GET"), METHOD_BYTES);
    append(&response, " ", 1);
    append(&response, variable("PATH_INFO", "/"), PATH_BYTES);
    append(&response, "\n", 1);
    return send(&response);
}
