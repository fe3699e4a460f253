/* What the test guests share: parameters come from the query, else from the environment.
 * `n=3` in the query is `GUEST_N=3` in the environment. */
#ifndef GUEST_H
#define GUEST_H

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32; /* lower case */
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The parameter's text, percent-decoded, in a static buffer. */
static inline const char *text_parameter(const char *name, const char *otherwise)
{
    static char text[4096];
    char variable[64] = "GUEST_";
    size_t length = strlen(name), used = 0;
    const char *query = getenv("QUERY_STRING");
    for (const char *item = query; item != NULL; item = strchr(item, '&')) {
        item += *item == '&';
        if (strncmp(item, name, length) != 0 || item[length] != '=') continue;
        for (const char *p = item + length + 1; *p && *p != '&' && used < sizeof text - 1; p++) {
            int is_escape = *p == '%' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0;
            text[used++] = is_escape ? (char)(hex_digit(p[1]) << 4 | hex_digit(p[2])) : *p;
            p += is_escape ? 2 : 0;
        }
        text[used] = '\0';
        return text;
    }
    for (size_t i = 0; i <= length && i < 50; i++) variable[6 + i] = (char)toupper(name[i]);
    const char *value = getenv(variable);
    return value != NULL ? value : otherwise;
}

static inline long parameter(const char *name, long otherwise)
{
    const char *text = text_parameter(name, NULL);
    return text != NULL ? strtol(text, NULL, 10) : otherwise;
}

static inline void sleep_millis(long millis)
{
    struct timespec duration = {.tv_sec = millis / 1000, .tv_nsec = millis % 1000 * 1000000};
    nanosleep(&duration, NULL);
}

#endif
