/* The image: one file with the code of the modules of one interpreter and virtual environment, and the directory
   listings that prove which file an import finds. Written once by src/pycds_auto/image.py (its mirror: change both),
   renamed into place, mapped read-only and used in place.

   Why this shape
   - Start-up must be constant work, whatever the size: the header is checked, nothing else is read. Tables are open-
     addressing hash tables of 32-bit indices, used from the mapping.
   - Nothing from the file is believed before its checksum was compared. The header has one, and every record, listing
     and payload has its own, compared at first use. The hash tables have none: a wrong bucket can only lead to a
     record with another path, that is, to a miss, and misses are answered by plain Python.
   - A directory's listing stands in for FileFinder's listing of that directory. It is believed only while one stat of
     the directory gives the mtime, ctime, inode and device that the snapshot saw (and the snapshot was taken two
     seconds or more after them: a change within the same tick of the clock would not show). ctime is there because
     an mtime can be set back by tar or rsync; nobody sets a ctime. The device counts only where ctimes are whole
     seconds (file systems made as images, with times of no meaning): overlay mounts get a new one at each start of a
     container.
   - A source is believed to be the one that was compiled if one stat shows its mtime, size and inode, and its ctime too
     unless it has several hard links. mtime and size are what a pyc goes by; but a pyc lies beside its source and is
     swapped with it, and we do not: two trees unpacked with equal times, and a link turned from one to the other, must
     not be mixed up. Hard links are left out because uv makes and removes them whenever any environment is made, which
     sets the ctime of the file that all environments share.
   - A listing leads by index straight to the modules and sub-directories that its names stand for: once a directory
     is proved, no path is hashed to find a module in it.
   - On a file system whose files can change under a mapping (NFS: an image that another host replaced is gone, and its
     pages with it, which is a SIGBUS; FUSE: whatever its server does), nothing is mapped: pieces are read when they are
     first wanted, from a file that still has to be the same one. A piece that can't be read is a damaged one.
   - Identity is text, compared byte by byte: no collisions, and a person can read why an image was refused.
   - Unaligned reads never happen: every block starts at a multiple of 16.
   - Which encoding an interpreter can use is found at the first module, not at start-up; an image doesn't say for whom
     it has which, since the rebuilder is the same interpreter and finds the same.

   The first 32 bytes keep their meaning in every later format, so that any release can name what it sees. */
#ifndef PYCDS_IMAGE_H
#define PYCDS_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define PYCDS_IMAGE_MAGIC "\x89PYCDS\r\n"
#define PYCDS_IMAGE_FORMAT 4
#define PYCDS_BYTE_ORDER UINT32_C(0x01020304)

enum image_encoding {
    IMAGE_ENCODING_MARSHAL = 1, /* payload: marshal of the code object, as in a pyc behind its 16-byte header */
    IMAGE_ENCODING_NATIVE = 2, /* payload: a stream (native_format.h), which the shared table belongs to */
};

struct image_header {
    char magic[8];
    uint32_t format;
    uint32_t byte_order;
    uint64_t file_bytes;
    uint64_t header_checksum; /* of header and identity text, with this field zero */
    /* from here on: format 4 */
    uint32_t header_bytes; /* of this struct */
    uint32_t identity_bytes; /* of the identity text, which follows the struct directly */
    int64_t built_ns; /* since the epoch */
    int64_t aged_ns; /* when modules were last marked MODULE_AGED (rebuild.py) */
    uint32_t encoding; /* enum image_encoding */
    uint32_t module_count;
    uint32_t directory_count;
    uint32_t module_buckets; /* a power of two, or 0 */
    uint32_t directory_buckets; /* a power of two, or 0 */
    uint32_t native_revision; /* NATIVE_REVISION of the streams; 0: none are there */
    /* offsets from the start of the file */
    uint64_t module_table; /* uint32_t[module_buckets], index + 1 of a module, 0 is empty */
    uint64_t modules; /* struct module_record[module_count] */
    uint64_t directory_table; /* uint32_t[directory_buckets] */
    uint64_t directories; /* struct directory_record[directory_count] */
    uint64_t body_checksum; /* of all that follows the identity text; only image_verify_all reads that much */
    uint64_t shared_table; /* native encoding: offset of strings that modules have in common */
    uint64_t shared_table_bytes; /* its blocks have checksums of their own */
    uint64_t shared_table_age; /* modules that came or went since the shared table was made as a whole (rebuild.py) */
    uint64_t full; /* MODULE_PATTERN, MODULE_SOURCE: the image takes no more of these, they need not be recorded */
};
_Static_assert(sizeof(struct image_header) == 152, "image.py packs the header with 152 bytes");

enum module_flag {
    MODULE_LEFT_OUT = 1, /* has no payload: looked at by the rebuilder and left to plain Python; not worth recording */
    MODULE_AGED = 2, /* not known to be used since aged_ns: a hit is recorded, and clears this at the next rebuild */
    MODULE_PATTERN = 4, /* not a module but a regular expression: its key in place of the path (patterns.h) */
    MODULE_SOURCE = 8, /* likewise a source text that was handed to compile, exec or eval (sources.h) */
};

struct module_record {
    uint64_t checksum; /* of the rest of the record and the path */
    uint64_t path_hash; /* pycds_checksum of the path */
    uint64_t path; /* offset of the absolute path of the source, utf-8, no terminator */
    uint32_t path_bytes;
    uint32_t flags; /* enum module_flag */
    int64_t mtime_ns; /* of the source */
    int64_t ctime_ns;
    uint64_t inode;
    uint64_t size; /* bytes */
    uint64_t payload; /* offset */
    uint64_t payload_bytes;
    uint64_t payload_checksum;
};
_Static_assert(sizeof(struct module_record) == 88, "image.py packs a module with 88 bytes");

enum directory_flag {
    DIRECTORY_LEFT_OUT = 1, /* has no listing: looked at by the rebuilder and left to FileFinder */
};

struct directory_record {
    uint64_t checksum; /* of the rest of the record and the path */
    uint64_t path_hash;
    uint64_t path; /* offset of the absolute path without a trailing slash ("" is the root), utf-8 */
    uint32_t path_bytes;
    uint32_t flags; /* enum directory_flag */
    int64_t mtime_ns;
    int64_t ctime_ns;
    uint64_t inode;
    uint64_t device;
    uint64_t listing; /* offset of struct listing */
    uint64_t listing_bytes;
    uint64_t listing_checksum;
};
_Static_assert(sizeof(struct directory_record) == 88, "image.py packs a directory with 88 bytes");

/* What an importable name is in a directory. A name is what precedes an import suffix, or a whole directory's name. */
enum name_flag {
    NAME_DIRECTORY = 1, /* an entry called just so that is not a regular file */
    NAME_SOURCE = 2, /* name + ".py" */
    NAME_BYTECODE = 4, /* name + ".pyc" */
    NAME_UNCERTAIN = 8, /* one of the files is not a regular one (a symlink, say): can change without the directory */
    NAME_EXTENSION_SHIFT = 8, /* bit 8 + i: name + i-th of _imp.extension_suffixes() */
    NAME_EXTENSIONS = 0xff00,
};

struct listing_name {
    uint32_t hash; /* lower half of pycds_checksum of the name */
    uint32_t name; /* offset from the listing's start, utf-8 */
    uint16_t name_bytes;
    uint16_t flags; /* enum name_flag */
    uint32_t module; /* NAME_SOURCE: index + 1 of its module, 0 if it is not in the image */
    uint32_t directory; /* NAME_DIRECTORY: index + 1 of its directory, 0 if it is not in the image */
};
_Static_assert(sizeof(struct listing_name) == 20, "image.py packs a name with 20 bytes");

/* A listing is self-contained: this head, uint32_t[bucket_count] (index + 1), struct listing_name[name_count], text. */
struct listing {
    uint32_t bucket_count; /* a power of two */
    uint32_t name_count;
};

struct image {
    const unsigned char *bytes; /* the mapping; NULL: no image */
    size_t size;
    const struct image_header *header;
    bool is_private; /* image_make_private was called: objects may lie in it */
    uint64_t used_bytes; /* of payloads, since pages were last given back */
    char *read_from; /* the image's path if it is read piece by piece and not mapped; owned, or NULL */
    unsigned char *fetched; /* then: a bit for each piece that was read; owned */
    uint64_t file_device;
    unsigned char *verified; /* a bit each for module records, payloads, directory records, listings; owned */
    int64_t file_mtime_ns; /* of the image when it was opened, to see at exit whether it was replaced since */
    uint64_t file_inode;
};

/* Maps the image at `path` after checking owner, permissions, size and header, and that its identity is `identity`
   (NULL: any). Returns NULL, or a reason for a person (static text) with *image all zero; *missing is set when there
   simply is no such file. Never raises; constant work. */
const char *image_open(struct image *image, const char *path, const char *identity, bool *missing);

/* Makes the mapping writable for this process alone: native streams have objects in them that are used in place, with
   counts of references. From then on image_close leaves it mapped. False: it can't be done. */
bool image_make_private(struct image *image);

/* Is [offset, offset + bytes) inside the image, and there to be read? All that follows asks this itself. */
bool image_has(struct image *image, uint64_t offset, uint64_t bytes);

/* Unmaps. Nothing obtained from the image may be used afterwards. */
void image_close(struct image *image);

/* The module whose source is `path`, its record verified; NULL if there is none (or its record is damaged). */
const struct module_record *image_module(struct image *image, const char *path, size_t path_bytes);

/* The module / directory with an index of a listing; NULL if out of range or damaged. */
const struct module_record *image_module_at(struct image *image, uint32_t index);
const struct directory_record *image_directory_at(struct image *image, uint32_t index);

/* The index of a module's record. */
uint32_t image_module_index(const struct image *image, const struct module_record *module);

/* The directory `path` (no trailing slash), verified; NULL if there is none. */
const struct directory_record *image_directory(struct image *image, const char *path, size_t path_bytes);

/* The verified listing of a directory; NULL if it has none or it is damaged. */
const struct listing *image_listing(struct image *image, const struct directory_record *directory);

/* The entry of a name in a verified listing; NULL: no such name. */
const struct listing_name *listing_find(
    const struct listing *listing, const char *name, size_t name_bytes, uint32_t hash);

/* The verified payload of a module, *size bytes, in the mapping; NULL if it has none or it is damaged. */
const unsigned char *image_payload(struct image *image, const struct module_record *module, size_t *size);

/* Says that `bytes` of payloads were used and will hardly be again. Now and then their pages are given back: they would
   count as this process's memory, all the more as each fault maps the pages around it. Objects that lie in payloads
   stay good: their pages come back as they are in the file, with the reference counts of immortal objects. */
void image_used_payload(struct image *image, uint64_t bytes);

/* Says that no import is in progress: what they used is given back, unless that is next to nothing. (The kernel may map
   two megabytes at a time for a page.) */
void image_rest(struct image *image);

/* The path of a record: not terminated. */
static inline const char *
image_text(const struct image *image, uint64_t offset)
{
    return (const char *)image->bytes + offset;
}

/* Does a stat of the source / directory show what the image recorded? */
bool module_matches(const struct module_record *module, const struct stat *now);

/* May this process read a file, or list a directory, whose stat this is? Where its mode doesn't say, it is tried: a
   program can give up privileges, or be run without a group that it had. */
bool stat_may_be_read(const char *path, const struct stat *status);
bool directory_matches(const struct directory_record *directory, const struct stat *now);

/* Checks every checksum and bound in the image. Returns NULL or the first fault (static text). */
const char *image_verify_all(struct image *image);

/* mtime and ctime in nanoseconds, under the names that the platform gives them. */
int64_t stat_mtime_ns(const struct stat *status);
int64_t stat_ctime_ns(const struct stat *status);

#endif
