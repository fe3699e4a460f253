/* Readings on a volume: appended durably, bounded in size, safe to share between processes. */
#ifndef STORE_H
#define STORE_H

#include <stddef.h>
#include <stdint.h>

enum { SENSOR_BYTES = 33 }; /* 32 letters, digits, '.', '_' and '-', and the final NUL */

struct reading {
    int64_t time_ms; /* since 1970 */
    double value;    /* finite */
    char sensor[SENSOR_BYTES];
};

/* Is `name` 1 to 32 letters, digits, '.', '_' and '-'? */
int store_is_sensor(const char *name);

/* Append all readings in one write and flush them to the device. At most 1000 fit in one call.
 * Returns 0 or an errno value; then none of them counts as stored. */
int store_append(const struct reading *readings, size_t count);

/* Call `visit` with every whole record, oldest first. `damaged` counts what was skipped: records
 * that a power cut tore. Returns 0 or an errno value. */
int store_scan(void (*visit)(const struct reading *reading, void *context), void *context,
               size_t *damaged);

/* Delete every reading that was stored before the call. Returns 0 or an errno value. */
int store_clear(void);

#endif
