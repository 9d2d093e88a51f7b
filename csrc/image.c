#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif
#include <unistd.h>

#include "checksum.h"
#include "native_format.h"

int64_t
stat_mtime_ns(const struct stat *status)
{
#ifdef __APPLE__
    return (int64_t)status->st_mtimespec.tv_sec * 1000000000 + status->st_mtimespec.tv_nsec;
#else
    return (int64_t)status->st_mtim.tv_sec * 1000000000 + status->st_mtim.tv_nsec;
#endif
}

int64_t
stat_ctime_ns(const struct stat *status)
{
#ifdef __APPLE__
    return (int64_t)status->st_ctimespec.tv_sec * 1000000000 + status->st_ctimespec.tv_nsec;
#else
    return (int64_t)status->st_ctim.tv_sec * 1000000000 + status->st_ctim.tv_nsec;
#endif
}

/* Is [offset, offset + bytes) inside the image? Safe against overflow. */
static bool
inside(const struct image *image, uint64_t offset, uint64_t bytes)
{
    return offset <= image->size && bytes <= image->size - offset;
}

static bool
is_power_of_two_or_zero(uint32_t n)
{
    return (n & (n - 1)) == 0;
}

/* The checks of the header that need only the mapping; NULL or a reason. */
static const char *
check_header(const struct image *image, const char *identity)
{
    const struct image_header *header = image->header;
    if (image->size < sizeof(*header) || memcmp(header->magic, PYCDS_IMAGE_MAGIC, sizeof(header->magic)) != 0) {
        return "archive damaged: it does not start as one of pycds-auto";
    }
    if (header->byte_order != PYCDS_BYTE_ORDER) {
        return "archive of a machine with another byte order";
    }
    if (header->format != PYCDS_IMAGE_FORMAT) {
        return "archive of another release of pycds-auto";
    }
    if (header->file_bytes != image->size) {
        return "archive damaged: its size is not the one in its header";
    }
    if (header->header_bytes != sizeof(*header) || !inside(image, sizeof(*header), header->identity_bytes)
        || header->identity_bytes > 1 << 16) { /* within the first piece */
        return "archive damaged: header";
    }
    unsigned char stack_copy[4096];
    size_t covered = sizeof(*header) + header->identity_bytes;
    unsigned char *copy = covered <= sizeof(stack_copy) ? stack_copy : malloc(covered);
    if (copy == NULL) {
        return "out of memory";
    }
    memcpy(copy, image->bytes, covered);
    memset(copy + offsetof(struct image_header, header_checksum), 0, sizeof(header->header_checksum));
    bool sound = pycds_checksum(copy, covered) == header->header_checksum;
    if (copy != stack_copy) {
        free(copy);
    }
    if (!sound) {
        return "archive damaged: header checksum";
    }
    if (!is_power_of_two_or_zero(header->module_buckets) || !is_power_of_two_or_zero(header->directory_buckets)
        || header->module_table % 16 || header->modules % 16 || header->directory_table % 16
        || header->directories % 16
        || !inside(image, header->module_table, (uint64_t)header->module_buckets * sizeof(uint32_t))
        || !inside(image, header->modules, (uint64_t)header->module_count * sizeof(struct module_record))
        || !inside(image, header->directory_table, (uint64_t)header->directory_buckets * sizeof(uint32_t))
        || !inside(image, header->directories, (uint64_t)header->directory_count * sizeof(struct directory_record))) {
        return "archive damaged: tables";
    }
    if (header->encoding != IMAGE_ENCODING_MARSHAL
        && (header->encoding != IMAGE_ENCODING_NATIVE || header->native_revision != NATIVE_REVISION)) {
        return "archive with an encoding that this release does not know";
    }
    if (header->shared_table % 16 || !inside(image, header->shared_table, header->shared_table_bytes)) {
        return "archive damaged: shared table";
    }
    if (identity != NULL
        && (strlen(identity) != header->identity_bytes
            || memcmp(image->bytes + sizeof(*header), identity, header->identity_bytes) != 0)) {
        return "archive of another interpreter, environment or set of options";
    }
    return NULL;
}

/* ---- mapping and reading ---- */

/* Is it a file system where a mapping stays what it is when the file is replaced: one of this machine? */
static bool
may_be_mapped(int fd)
{
#if defined(PYCDS_READ_IMAGE) /* to test the other way without such a file system */
    (void)fd;
    return false;
#elif defined(__linux__)
    static const uint32_t local[] = {
        0x0000ef53, /* ext2, ext3, ext4 */
        0x58465342, /* xfs */
        0x9123683e, /* btrfs */
        0x01021994, /* tmpfs */
        0x858458f6, /* ramfs */
        0x794c7630, /* overlayfs */
        0x2fc12fc1, /* zfs */
        0xf2f52010, /* f2fs */
        0xca451a4e, /* bcachefs */
        0x73717368, /* squashfs */
        0xe0f5e1e2, /* erofs */
        0x52654973, /* reiserfs */
        0x3153464a, /* jfs */
    }; /* linux/magic.h and the file systems' own headers */
    struct statfs system;
    if (fstatfs(fd, &system) != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof(local) / sizeof(local[0]); i++) {
        if ((uint32_t)system.f_type == local[i]) {
            return true;
        }
    }
    return false;
#else
    (void)fd;
    return true;
#endif
}

/* Maps the file; NULL or a reason. */
static const char *
map_file(struct image *image, int fd)
{
    void *map = mmap(NULL, image->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        return "archive cannot be mapped";
    }
    image->bytes = map;
    return NULL;
}

#define PIECE ((uint64_t)128 * 1024) /* read at a time: some hundred system calls for the largest of programs */

/* Reads the pieces [first, last] from the open file. */
static bool
read_pieces(struct image *image, int fd, uint64_t first, uint64_t last)
{
    uint64_t at = first * PIECE;
    uint64_t end = (last + 1) * PIECE < image->size ? (last + 1) * PIECE : image->size;
    while (at < end) {
        ssize_t got = pread(fd, (unsigned char *)(uintptr_t)image->bytes + at, (size_t)(end - at), (off_t)at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return false;
        }
        at += (uint64_t)got;
    }
    for (uint64_t piece = first; piece <= last; piece++) {
        image->fetched[piece / 8] |= (unsigned char)(1 << piece % 8);
    }
    return true;
}

/* Makes room for the file's pieces, and reads the first; NULL or a reason. The descriptor is not kept: it would be
   seen, and closed by programs that close what they don't know. */
static const char *
prepare_to_read(struct image *image, int fd, const char *path)
{
    void *room =
        mmap(NULL, image->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        return "archive cannot be mapped";
    }
    image->bytes = room;
    image->read_from = strdup(path);
    image->fetched = calloc(image->size / PIECE / 8 + 1, 1);
    if (image->read_from == NULL || image->fetched == NULL) {
        return "out of memory";
    }
    return read_pieces(image, fd, 0, 0) ? NULL : "archive cannot be read";
}

/* Reads what is missing of [offset, offset + bytes). */
static bool
fetch(struct image *image, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset / PIECE, last = bytes == 0 ? first : (offset + bytes - 1) / PIECE;
    while (first <= last && image->fetched[first / 8] >> first % 8 & 1) {
        first++;
    }
    if (first > last) {
        return true;
    }
    int fd = open(image->read_from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    /* Pieces that are there already may hold objects that are in use: they are not read again. */
    bool done = fd >= 0 && fstat(fd, &status) == 0 && (uint64_t)status.st_ino == image->file_inode
                && (uint64_t)status.st_dev == image->file_device && (uint64_t)status.st_size == image->size
                && stat_mtime_ns(&status) == image->file_mtime_ns;
    for (uint64_t piece = first; done && piece <= last; piece++) {
        done = (image->fetched[piece / 8] >> piece % 8 & 1) || read_pieces(image, fd, piece, piece);
    }
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

bool
image_has(struct image *image, uint64_t offset, uint64_t bytes)
{
    return inside(image, offset, bytes) && (image->read_from == NULL || fetch(image, offset, bytes));
}

/* The same for an item that lies at an address in the image. */
static bool
has_item(struct image *image, const void *item, size_t bytes)
{
    return image->read_from == NULL || fetch(image, (uint64_t)((const unsigned char *)item - image->bytes), bytes);
}

const char *
image_open(struct image *image, const char *path, const char *identity, bool *missing)
{
    memset(image, 0, sizeof(*image));
    *missing = false;
    /* O_NONBLOCK: a fifo in the image's place must not hold the program up. */
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        if (errno == ENOENT) {
            *missing = true;
            return "no archive yet";
        }
        return errno == ELOOP ? "archive refused: it is a symbolic link" : "image cannot be opened";
    }
    struct stat status;
    const char *reason = NULL;
    if (fstat(fd, &status) != 0) {
        reason = "archive cannot be examined";
    }
    else if (!S_ISREG(status.st_mode)) {
        reason = "archive refused: it is not a regular file";
    }
    else if (status.st_uid != geteuid() && status.st_uid != 0) {
        reason = "archive refused: it belongs to another user";
    }
    else if (status.st_mode & (S_IWGRP | S_IWOTH)) {
        reason = "archive refused: others may write it";
    }
    else if (status.st_size < (off_t)sizeof(struct image_header)) {
        reason = "archive damaged: it is too short";
    }
    if (reason == NULL) {
        image->size = (size_t)status.st_size;
        image->file_mtime_ns = stat_mtime_ns(&status);
        image->file_inode = (uint64_t)status.st_ino;
        image->file_device = (uint64_t)status.st_dev;
        reason = may_be_mapped(fd) ? map_file(image, fd) : prepare_to_read(image, fd, path);
    }
    if (reason == NULL) {
        image->header = (const struct image_header *)image->bytes;
        reason = check_header(image, identity);
    }
    if (reason == NULL) {
        uint64_t bits = 2 * ((uint64_t)image->header->module_count + image->header->directory_count);
        image->verified = calloc(bits / 8 + 1, 1);
        if (image->verified == NULL) {
            reason = "out of memory";
        }
    }
    if (reason != NULL) {
        image_close(image);
    }
    close(fd);
    return reason;
}

bool
image_make_private(struct image *image)
{
    image->is_private = image->is_private || image->read_from != NULL
                        || mprotect((void *)(uintptr_t)image->bytes, image->size, PROT_READ | PROT_WRITE) == 0;
    return image->is_private;
}

void
image_close(struct image *image)
{
    if (image->bytes != NULL && !image->is_private) {
        munmap((void *)image->bytes, image->size);
    }
    free(image->verified);
    free(image->read_from);
    free(image->fetched);
    memset(image, 0, sizeof(*image));
}

/* The `verified` bit of one of the four kinds of things. */
enum verified_kind { VERIFIED_MODULE, VERIFIED_PAYLOAD, VERIFIED_DIRECTORY, VERIFIED_LISTING };

static uint64_t
verified_bit(const struct image *image, enum verified_kind kind, uint32_t index)
{
    const uint64_t modules = image->header->module_count;
    const uint64_t directories = image->header->directory_count;
    const uint64_t starts[] = {0, modules, 2 * modules, 2 * modules + directories};
    return starts[kind] + index;
}

static bool
is_verified(const struct image *image, uint64_t bit)
{
    return image->verified[bit / 8] >> bit % 8 & 1;
}

static void
set_verified(struct image *image, uint64_t bit)
{
    image->verified[bit / 8] |= (unsigned char)(1 << bit % 8);
}

/* A record's checksum: of its bytes behind the checksum field, and of the path, folded. */
static uint64_t
record_checksum(const struct image *image, const void *record, size_t record_bytes, uint64_t path, uint32_t path_bytes)
{
    const size_t skip = sizeof(uint64_t);
    return pycds_checksum((const char *)record + skip, record_bytes - skip)
           ^ pycds_checksum(image->bytes + path, path_bytes);
}

const struct module_record *
image_module_at(struct image *image, uint32_t index)
{
    if (index >= image->header->module_count) {
        return NULL;
    }
    const struct module_record *module = (const struct module_record *)(image->bytes + image->header->modules) + index;
    uint64_t bit = verified_bit(image, VERIFIED_MODULE, index);
    if (!is_verified(image, bit)) {
        if (!has_item(image, module, sizeof(*module)) || !image_has(image, module->path, module->path_bytes)
            || record_checksum(image, module, sizeof(*module), module->path, module->path_bytes) != module->checksum) {
            return NULL;
        }
        set_verified(image, bit);
    }
    return module;
}

const struct directory_record *
image_directory_at(struct image *image, uint32_t index)
{
    if (index >= image->header->directory_count) {
        return NULL;
    }
    const struct directory_record *directory =
        (const struct directory_record *)(image->bytes + image->header->directories) + index;
    uint64_t bit = verified_bit(image, VERIFIED_DIRECTORY, index);
    if (!is_verified(image, bit)) {
        if (!has_item(image, directory, sizeof(*directory))
            || !image_has(image, directory->path, directory->path_bytes)
            || record_checksum(image, directory, sizeof(*directory), directory->path, directory->path_bytes)
                   != directory->checksum) {
            return NULL;
        }
        set_verified(image, bit);
    }
    return directory;
}

const struct module_record *
image_module(struct image *image, const char *path, size_t path_bytes)
{
    uint32_t buckets = image->header->module_buckets;
    const uint32_t *table = (const uint32_t *)(image->bytes + image->header->module_table);
    uint64_t hash = pycds_checksum(path, path_bytes);
    for (uint32_t probe = 0; probe < buckets; probe++) {
        const uint32_t *bucket = &table[(hash + probe) & (buckets - 1)];
        if (!has_item(image, bucket, sizeof(*bucket)) || *bucket == 0) {
            return NULL;
        }
        const uint32_t slot = *bucket;
        if (slot > image->header->module_count) {
            continue;
        }
        const struct module_record *module =
            (const struct module_record *)(image->bytes + image->header->modules) + (slot - 1);
        if (!has_item(image, module, sizeof(*module))) {
            return NULL;
        }
        if (module->path_hash == hash && module->path_bytes == path_bytes && image_has(image, module->path, path_bytes)
            && memcmp(image->bytes + module->path, path, path_bytes) == 0) {
            return image_module_at(image, slot - 1);
        }
    }
    return NULL;
}

uint32_t
image_module_index(const struct image *image, const struct module_record *module)
{
    return (uint32_t)(module - (const struct module_record *)(image->bytes + image->header->modules));
}

const struct directory_record *
image_directory(struct image *image, const char *path, size_t path_bytes)
{
    uint32_t buckets = image->header->directory_buckets;
    const uint32_t *table = (const uint32_t *)(image->bytes + image->header->directory_table);
    uint64_t hash = pycds_checksum(path, path_bytes);
    for (uint32_t probe = 0; probe < buckets; probe++) {
        const uint32_t *bucket = &table[(hash + probe) & (buckets - 1)];
        if (!has_item(image, bucket, sizeof(*bucket)) || *bucket == 0) {
            return NULL;
        }
        const uint32_t slot = *bucket;
        if (slot > image->header->directory_count) {
            continue;
        }
        const struct directory_record *directory =
            (const struct directory_record *)(image->bytes + image->header->directories) + (slot - 1);
        if (!has_item(image, directory, sizeof(*directory))) {
            return NULL;
        }
        if (directory->path_hash == hash && directory->path_bytes == path_bytes
            && image_has(image, directory->path, path_bytes)
            && memcmp(image->bytes + directory->path, path, path_bytes) == 0) {
            return image_directory_at(image, slot - 1);
        }
    }
    return NULL;
}

static const uint32_t *
listing_buckets(const struct listing *listing)
{
    return (const uint32_t *)(listing + 1);
}

static const struct listing_name *
listing_names(const struct listing *listing)
{
    return (const struct listing_name *)(listing_buckets(listing) + listing->bucket_count);
}

/* Do all parts of a listing lie inside its block? The checksum says it is as written; this says it was written well. */
static bool
listing_is_sound(const struct listing *listing, uint64_t bytes)
{
    if (bytes < sizeof(*listing) || !is_power_of_two_or_zero(listing->bucket_count) || listing->bucket_count == 0) {
        return false;
    }
    uint64_t text = sizeof(*listing) + (uint64_t)listing->bucket_count * sizeof(uint32_t)
                    + (uint64_t)listing->name_count * sizeof(struct listing_name);
    if (text > bytes) {
        return false;
    }
    for (uint32_t i = 0; i < listing->bucket_count; i++) {
        if (listing_buckets(listing)[i] > listing->name_count) {
            return false;
        }
    }
    for (uint32_t i = 0; i < listing->name_count; i++) {
        const struct listing_name *name = &listing_names(listing)[i];
        if (name->name < text || (uint64_t)name->name + name->name_bytes > bytes) {
            return false;
        }
    }
    return true;
}

const struct listing *
image_listing(struct image *image, const struct directory_record *directory)
{
    if (directory->flags & DIRECTORY_LEFT_OUT) {
        return NULL;
    }
    uint32_t index =
        (uint32_t)(directory - (const struct directory_record *)(image->bytes + image->header->directories));
    uint64_t bit = verified_bit(image, VERIFIED_LISTING, index);
    const struct listing *listing = (const struct listing *)(image->bytes + directory->listing);
    if (!is_verified(image, bit)) {
        if (!image_has(image, directory->listing, directory->listing_bytes) || directory->listing % 16
            || pycds_checksum(listing, directory->listing_bytes) != directory->listing_checksum
            || !listing_is_sound(listing, directory->listing_bytes)) {
            return NULL;
        }
        set_verified(image, bit);
    }
    return listing;
}

const struct listing_name *
listing_find(const struct listing *listing, const char *name, size_t name_bytes, uint32_t hash)
{
    const uint32_t *buckets = listing_buckets(listing);
    for (uint32_t probe = 0; probe < listing->bucket_count; probe++) {
        uint32_t slot = buckets[(hash + probe) & (listing->bucket_count - 1)];
        if (slot == 0) {
            return NULL;
        }
        const struct listing_name *entry = &listing_names(listing)[slot - 1];
        if (entry->hash == hash && entry->name_bytes == name_bytes
            && memcmp((const char *)listing + entry->name, name, name_bytes) == 0) {
            return entry;
        }
    }
    return NULL;
}

const unsigned char *
image_payload(struct image *image, const struct module_record *module, size_t *size)
{
    if (module->flags & MODULE_LEFT_OUT) {
        return NULL;
    }
    uint64_t bit = verified_bit(image, VERIFIED_PAYLOAD, image_module_index(image, module));
    const unsigned char *payload = image->bytes + module->payload;
    if (!is_verified(image, bit)) {
        if (!image_has(image, module->payload, module->payload_bytes)
            || pycds_checksum(payload, module->payload_bytes) != module->payload_checksum) {
            return NULL;
        }
        set_verified(image, bit);
    }
    *size = (size_t)module->payload_bytes;
    return payload;
}

/* So many bytes of payloads are used before pages are given back: while an import goes on, and when it has ended. */
#define USED_IN_IMPORT (UINT64_C(1) << 20)
#define USED_AT_REST (UINT64_C(1) << 15)

static void
give_payloads_back(struct image *image)
{
    const uint64_t page = 65536; /* the largest of any machine */
    image->used_bytes = 0;
    if (image->read_from != NULL || image->header->module_count == 0) {
        return;
    }
    /* image.py writes payloads last, in the order of their records */
    const struct module_record *first = image_module_at(image, 0);
    uint64_t start = first == NULL ? image->size : (first->payload + page - 1) / page * page;
    if (start < image->size) {
        (void)madvise((void *)(uintptr_t)(image->bytes + start), image->size - start, MADV_DONTNEED);
    }
}

void
image_used_payload(struct image *image, uint64_t bytes)
{
    image->used_bytes += bytes;
    if (image->used_bytes >= USED_IN_IMPORT) {
        give_payloads_back(image);
    }
}

void
image_rest(struct image *image)
{
    if (image->used_bytes >= USED_AT_REST) {
        give_payloads_back(image);
    }
}

bool
module_matches(const struct module_record *module, const struct stat *now)
{
    return stat_mtime_ns(now) == module->mtime_ns && (uint64_t)now->st_size == module->size
           && (uint64_t)now->st_ino == module->inode
           && (now->st_nlink > 1 || stat_ctime_ns(now) == module->ctime_ns);
}

bool
stat_may_be_read(const char *path, const struct stat *status)
{
    static const mode_t all = S_IRUSR | S_IRGRP | S_IROTH;
    if ((status->st_mode & all) == all || (status->st_uid == geteuid() && status->st_mode & S_IRUSR)) {
        return true;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* what plain Python does */
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

bool
directory_matches(const struct directory_record *directory, const struct stat *now)
{
    return S_ISDIR(now->st_mode) && stat_mtime_ns(now) == directory->mtime_ns
           && stat_ctime_ns(now) == directory->ctime_ns && (uint64_t)now->st_ino == directory->inode
           && ((uint64_t)now->st_dev == directory->device || directory->ctime_ns % 1000000000 != 0);
}

const char *
image_verify_all(struct image *image)
{
    size_t body = sizeof(*image->header) + image->header->identity_bytes;
    if (!image_has(image, 0, image->size)) {
        return "archive cannot be read";
    }
    if (pycds_checksum(image->bytes + body, image->size - body) != image->header->body_checksum) {
        return "archive damaged: checksum of the file";
    }
    for (uint32_t i = 0; i < image->header->module_count; i++) {
        const struct module_record *module = image_module_at(image, i);
        size_t size;
        if (module == NULL || image_module(image, image_text(image, module->path), module->path_bytes) != module) {
            return "archive damaged: module table";
        }
        if (!(module->flags & MODULE_LEFT_OUT) && image_payload(image, module, &size) == NULL) {
            return "archive damaged: code of a module";
        }
    }
    for (uint32_t i = 0; i < image->header->directory_count; i++) {
        const struct directory_record *directory = image_directory_at(image, i);
        if (directory == NULL
            || image_directory(image, image_text(image, directory->path), directory->path_bytes) != directory) {
            return "archive damaged: directory table";
        }
        if (!(directory->flags & DIRECTORY_LEFT_OUT) && image_listing(image, directory) == NULL) {
            return "archive damaged: listing of a directory";
        }
    }
    return NULL;
}
