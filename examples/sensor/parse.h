/* JSON text to readings: RFC 8259 to the letter, and nothing that isn't a reading. */
#ifndef PARSE_H
#define PARSE_H

#include <stddef.h>

#include "store.h"

struct parse_error {
    const char *message;
    size_t at; /* the byte of the text where it was noticed */
};

/* Parse {"sensor": "t1", "value": 21.5} or an array of 1 to `limit` of these. `text` ends with
 * NUL at `text[length]`. Returns how many readings there are; 0 is an error. */
size_t parse_readings(const char *text, size_t length, struct reading *readings, size_t limit,
                      struct parse_error *error);

#endif
