/* One line of text per record: a checksum, milliseconds since 1970, the sensor and its value.
 *
 * Preview 1 has no file locks, so nothing here needs one:
 * - A batch is one write to a file opened with O_APPEND; the kernel never interleaves two.
 * - A batch starts with a newline, so that it stands alone after a record torn by a power cut.
 * - Segments are numbered and never renamed. Whoever finds the newest full creates the next and
 *   unlinks those too old; when two processes do it at once, both do the same.
 */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VOLUME "/data"

enum {
    LINE_BYTES = 96, /* the longest record is 8 + 1 + 20 + 1 + 32 + 1 + 24 + 1 */
    BATCH_RECORDS = 1000,
    CHECKSUM_DIGITS = 8,
    READ_BYTES = 16384,
    SEGMENTS = 8,
    PATH_BYTES = 64,
};

static const long long default_keep_bytes = 1 << 20;
static const long long least_keep_bytes = 1 << 20; /* a segment holds at least one batch */
static const long long most_keep_bytes = 1 << 30;

struct segments {
    uint32_t first, last; /* both 0: none */
};

static uint32_t checksum(const char *bytes, size_t length) /* CRC-32 as in IEEE 802.3 */
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < length; i++) {
        crc ^= (unsigned char)bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

int store_is_sensor(const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strspn(name, allowed);
    return length > 0 && length < SENSOR_BYTES && name[length] == '\0';
}

/* How much the store keeps, from the environment's KEEP_BYTES. Returns 0 or EINVAL. */
static int read_segment_bytes(long long *segment_bytes)
{
    long long keep = default_keep_bytes;
    const char *text = getenv("KEEP_BYTES");
    if (text != NULL) {
        char *end;
        errno = 0;
        keep = strtoll(text, &end, 10);
        if (errno != 0 || end == text || *end != '\0') return EINVAL;
        if (keep < least_keep_bytes || keep > most_keep_bytes) return EINVAL;
    }
    *segment_bytes = keep / SEGMENTS;
    return 0;
}

static int open_segment(uint32_t number, int flags)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, VOLUME "/readings-%08" PRIu32 ".log", number);
    return open(path, flags, 0600);
}

static void unlink_segments(uint32_t first, uint32_t last)
{
    for (uint32_t number = first; number != 0 && number <= last; number++) {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, VOLUME "/readings-%08" PRIu32 ".log", number);
        unlink(path); /* another process may have been first */
    }
}

/* The number in a segment's file name; 0 for any other file. */
static uint32_t parse_segment(const char *name)
{
    static const char prefix[] = "readings-", suffix[] = ".log";
    enum { DIGITS = 8 };
    const char *digits = name + sizeof prefix - 1;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return 0;
    if (strspn(digits, "0123456789") != DIGITS || strcmp(digits + DIGITS, suffix) != 0) return 0;
    return (uint32_t)strtoul(digits, NULL, 10);
}

static int list_segments(struct segments *segments)
{
    *segments = (struct segments){0, 0};
    DIR *directory = opendir(VOLUME);
    if (directory == NULL) return errno;
    const struct dirent *entry;
    while (errno = 0, (entry = readdir(directory)) != NULL) {
        uint32_t number = parse_segment(entry->d_name);
        if (number == 0) continue;
        if (segments->first == 0 || number < segments->first) segments->first = number;
        if (number > segments->last) segments->last = number;
    }
    int error = errno;
    closedir(directory);
    return error;
}

/* Make a new segment's name durable. A host that can't flush directories flushes it with the
 * file on the usual Linux file systems, so failing is not an error. */
static void flush_volume(void)
{
    int directory = open(VOLUME, O_RDONLY | O_DIRECTORY);
    if (directory < 0) return;
    fsync(directory);
    close(directory);
}

/* Open the segment that takes `length` more bytes. Returns 0 or an errno value. */
static int open_for_append(size_t length, int *descriptor)
{
    long long segment_bytes;
    struct segments segments;
    int error = read_segment_bytes(&segment_bytes);
    if (error == 0) error = list_segments(&segments);
    if (error != 0) return error;

    const int flags = O_WRONLY | O_APPEND | O_CREAT;
    uint32_t number = segments.last > 0 ? segments.last : 1;
    struct stat status;
    *descriptor = open_segment(number, flags);
    if (*descriptor < 0) return errno;
    if (fstat(*descriptor, &status) != 0) goto failed;
    if (status.st_size == 0) {
        flush_volume();
    } else if (status.st_size + (long long)length > segment_bytes) {
        close(*descriptor);
        number++;
        *descriptor = open_segment(number, flags);
        if (*descriptor < 0) return errno;
        flush_volume();
        if (number > SEGMENTS) unlink_segments(segments.first, number - SEGMENTS);
    }
    return 0;

failed:
    error = errno;
    close(*descriptor);
    return error;
}

static size_t format_record(const struct reading *reading, char line[static LINE_BYTES])
{
    char *text = line + CHECKSUM_DIGITS + 1;
    int length = snprintf(text, LINE_BYTES - CHECKSUM_DIGITS - 1, "%" PRId64 " %s %.17g",
                          reading->time_ms, reading->sensor, reading->value);
    snprintf(line, CHECKSUM_DIGITS + 1, "%08" PRIx32, checksum(text, (size_t)length));
    line[CHECKSUM_DIGITS] = ' ';
    text[length] = '\n';
    return CHECKSUM_DIGITS + 1 + (size_t)length + 1;
}

int store_append(const struct reading *readings, size_t count)
{
    static char batch[1 + BATCH_RECORDS * LINE_BYTES];
    if (count > BATCH_RECORDS) return EINVAL;
    size_t length = 0;
    batch[length++] = '\n';
    for (size_t i = 0; i < count; i++) length += format_record(&readings[i], batch + length);

    int descriptor;
    int error = open_for_append(length, &descriptor);
    if (error != 0) return error;
    ssize_t written = write(descriptor, batch, length);
    if (written != (ssize_t)length) {
        error = written < 0 ? errno : ENOSPC;
    } else if (fsync(descriptor) != 0) {
        error = errno;
    }
    if (close(descriptor) != 0 && error == 0) error = errno;
    return error;
}

static int parse_record(char *line, size_t length, struct reading *reading)
{
    if (length <= CHECKSUM_DIGITS + 1 || line[CHECKSUM_DIGITS] != ' ') return 0;
    const char *text = line + CHECKSUM_DIGITS + 1;
    char *end;
    if (strtoul(line, &end, 16) != checksum(text, length - CHECKSUM_DIGITS - 1)) return 0;
    if (end != line + CHECKSUM_DIGITS) return 0;

    /* The checksum holds, so this is what format_record wrote. */
    reading->time_ms = strtoll(text, &end, 10);
    const char *sensor = end + 1;
    const char *space = strchr(sensor, ' ');
    if (space == NULL || (size_t)(space - sensor) >= SENSOR_BYTES) return 0;
    memcpy(reading->sensor, sensor, (size_t)(space - sensor));
    reading->sensor[space - sensor] = '\0';
    reading->value = strtod(space + 1, &end);
    return *end == '\0';
}

struct scan {
    void (*visit)(const struct reading *reading, void *context);
    void *context;
    size_t *damaged;
    char line[LINE_BYTES];
    size_t length; /* of the line so far; LINE_BYTES says too long to be a record */
};

static void end_line(struct scan *scan)
{
    struct reading reading;
    if (scan->length > 0) {
        int is_whole = scan->length < LINE_BYTES;
        if (is_whole) scan->line[scan->length] = '\0';
        if (is_whole && parse_record(scan->line, scan->length, &reading)) {
            scan->visit(&reading, scan->context);
        } else {
            ++*scan->damaged;
        }
    }
    scan->length = 0;
}

static int scan_segment(struct scan *scan, uint32_t number)
{
    int descriptor = open_segment(number, O_RDONLY);
    if (descriptor < 0) return errno == ENOENT ? 0 : errno; /* unlinked meanwhile */

    static char buffer[READ_BYTES];
    ssize_t count;
    while ((count = read(descriptor, buffer, sizeof buffer)) > 0) {
        for (const char *p = buffer; p < buffer + count; p++) {
            if (*p == '\n') {
                end_line(scan);
            } else if (scan->length < LINE_BYTES) {
                scan->line[scan->length++] = *p;
            }
        }
    }
    int error = count < 0 ? errno : 0;
    close(descriptor);
    end_line(scan);
    return error;
}

int store_scan(void (*visit)(const struct reading *reading, void *context), void *context,
               size_t *damaged)
{
    struct segments segments;
    int error = list_segments(&segments);
    struct scan scan = {.visit = visit, .context = context, .damaged = damaged};
    *damaged = 0;
    if (segments.first == 0) return error;
    for (uint32_t number = segments.first; error == 0 && number <= segments.last; number++) {
        error = scan_segment(&scan, number);
    }
    return error;
}

int store_clear(void)
{
    struct segments segments;
    int error = list_segments(&segments);
    if (error != 0 || segments.last == 0) return error;
    /* The next number first: readings that arrive from now on are not among the deleted. */
    int descriptor = open_segment(segments.last + 1, O_WRONLY | O_APPEND | O_CREAT);
    if (descriptor < 0) return errno;
    close(descriptor);
    unlink_segments(segments.first, segments.last);
    flush_volume();
    return 0;
}
