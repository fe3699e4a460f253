/* A reading is two known keys, so a few functions that walk the text do; there is no tree. */
#include "parse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STRING_BYTES = 48 }; /* a longer string is neither a key nor a sensor */

struct cursor {
    const char *start, *at, *end;
    struct parse_error *error;
};

static int fail(struct cursor *cursor, const char *message)
{
    cursor->error->message = message;
    cursor->error->at = (size_t)(cursor->at - cursor->start);
    return 0;
}

static void skip_space(struct cursor *cursor)
{
    const char *at = cursor->at;
    while (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n') at++;
    cursor->at = at;
}

/* Skip white space, then take `c` if it comes next. */
static int take(struct cursor *cursor, char c)
{
    skip_space(cursor);
    if (*cursor->at != c) return 0;
    cursor->at++;
    return 1;
}

static int parse_hex4(struct cursor *cursor, unsigned *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++) {
        static const char digits[] = "0123456789abcdef";
        char c = *cursor->at;
        const char *digit = c == '\0' ? NULL : strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c);
        if (digit == NULL) return fail(cursor, "\\u needs four hexadecimal digits");
        *code = *code << 4 | (unsigned)(digit - digits);
        cursor->at++;
    }
    return 1;
}

/* After a backslash: one decoded character. '?' stands for any beyond ASCII: no name has one. */
static int parse_escape(struct cursor *cursor, char *c)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    char name = *cursor->at;
    if (name == 'u') {
        unsigned code;
        cursor->at++;
        if (!parse_hex4(cursor, &code)) return 0;
        *c = (char)(code > 0 && code < 0x80 ? code : '?');
        return 1;
    }
    const char *found = name == '\0' ? NULL : strchr(names, name);
    if (found == NULL) return fail(cursor, "unknown escape in a string");
    *c = values[found - names];
    cursor->at++;
    return 1;
}

static int parse_string(struct cursor *cursor, char string[static STRING_BYTES])
{
    size_t length = 0;
    if (!take(cursor, '"')) return fail(cursor, "expected a string");
    while (*cursor->at != '"') {
        char c = *cursor->at;
        if ((unsigned char)c < 0x20) {
            return fail(cursor, "a string must be closed and have no control characters");
        }
        cursor->at++;
        if (c == '\\' && !parse_escape(cursor, &c)) return 0;
        if (length == STRING_BYTES - 1) return fail(cursor, "the string is too long");
        string[length++] = c;
    }
    cursor->at++;
    string[length] = '\0';
    return 1;
}

static size_t skip_digits(struct cursor *cursor)
{
    const char *first = cursor->at;
    while (*cursor->at >= '0' && *cursor->at <= '9') cursor->at++;
    return (size_t)(cursor->at - first);
}

static int parse_number(struct cursor *cursor, double *number)
{
    skip_space(cursor);
    const char *first = cursor->at;
    if (*cursor->at == '-') cursor->at++;
    if (*cursor->at == '0') {
        cursor->at++;
    } else if (skip_digits(cursor) == 0) {
        return fail(cursor, "expected a number");
    }
    if (*cursor->at == '.') {
        cursor->at++;
        if (skip_digits(cursor) == 0) return fail(cursor, "expected a digit after the point");
    }
    if (*cursor->at == 'e' || *cursor->at == 'E') {
        cursor->at++;
        if (*cursor->at == '+' || *cursor->at == '-') cursor->at++;
        if (skip_digits(cursor) == 0) return fail(cursor, "expected a digit in the exponent");
    }
    *number = strtod(first, NULL);
    return isfinite(*number) ? 1 : fail(cursor, "the number is too large");
}

static int parse_reading(struct cursor *cursor, struct reading *reading)
{
    int has_sensor = 0, has_value = 0;
    if (!take(cursor, '{')) return fail(cursor, "expected a reading in braces");
    do {
        char string[STRING_BYTES];
        if (!parse_string(cursor, string)) return 0;
        if (!take(cursor, ':')) return fail(cursor, "expected ':' after a key");
        if (strcmp(string, "sensor") == 0 && !has_sensor) {
            if (!parse_string(cursor, string)) return 0;
            if (!store_is_sensor(string)) {
                return fail(cursor, "a sensor is 1 to 32 letters, digits, '.', '_' and '-'");
            }
            strcpy(reading->sensor, string);
            has_sensor = 1;
        } else if (strcmp(string, "value") == 0 && !has_value) {
            if (!parse_number(cursor, &reading->value)) return 0;
            has_value = 1;
        } else {
            return fail(cursor, "the keys are \"sensor\" and \"value\", each once");
        }
    } while (take(cursor, ','));
    if (!take(cursor, '}')) return fail(cursor, "expected ',' or '}'");
    return has_sensor && has_value ? 1 : fail(cursor, "a reading needs \"sensor\" and \"value\"");
}

size_t parse_readings(const char *text, size_t length, struct reading *readings, size_t limit,
                      struct parse_error *error)
{
    struct cursor cursor = {.start = text, .at = text, .end = text + length, .error = error};
    size_t count = 0;
    int is_array = take(&cursor, '[');
    do {
        if (count == limit) return (size_t)fail(&cursor, "too many readings at once");
        if (!parse_reading(&cursor, &readings[count])) return 0;
        count++;
    } while (is_array && take(&cursor, ','));
    if (is_array && !take(&cursor, ']')) return (size_t)fail(&cursor, "expected ',' or ']'");
    skip_space(&cursor);
    if (cursor.at != cursor.end) return (size_t)fail(&cursor, "expected nothing after the JSON");
    return count;
}
