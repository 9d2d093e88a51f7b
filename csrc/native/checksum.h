/* The checksum of image blocks, names and paths.

   A flipped bit must not reach the interpreter, and checking must cost next to nothing: django's modules are 5 MB a
   start. Four 64-bit lanes, each step a bijection of the lane (xor with the data, multiplication by an odd number, xor
   with its own upper half), so a change confined to one 8-byte word always changes the result; other changes go
   unnoticed with a chance of about 2**-64. Not cryptographic: who can write the cache folder can run code anyway.
   Native byte order: an image is only ever read on the machine kind that wrote it (image.h, `byte_order`). */
#ifndef PYCDS_CHECKSUM_H
#define PYCDS_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PYCDS_LANE_STEP(lane, word)                                                                                    \
    do {                                                                                                               \
        (lane) = ((lane) ^ (word)) * UINT64_C(0x9fb21c651e98df25);                                                     \
        (lane) ^= (lane) >> 32;                                                                                        \
    } while (0)

/* Checksum of `size` bytes at `data` (any alignment, may be NULL for size 0). */
static inline uint64_t
pycds_checksum(const void *data, size_t size)
{
    const unsigned char *at = data;
    uint64_t lanes[4] = {
        UINT64_C(0x243f6a8885a308d3), UINT64_C(0x13198a2e03707344),
        UINT64_C(0xa4093822299f31d0), UINT64_C(0x082efa98ec4e6c89)};
    uint64_t words[4];
    size_t left = size;
    while (left >= sizeof(words)) {
        memcpy(words, at, sizeof(words));
        PYCDS_LANE_STEP(lanes[0], words[0]);
        PYCDS_LANE_STEP(lanes[1], words[1]);
        PYCDS_LANE_STEP(lanes[2], words[2]);
        PYCDS_LANE_STEP(lanes[3], words[3]);
        at += sizeof(words);
        left -= sizeof(words);
    }
    if (left) {
        memset(words, 0, sizeof(words));
        memcpy(words, at, left);
        for (int i = 0; i < 4; i++) {
            PYCDS_LANE_STEP(lanes[i], words[i]);
        }
    }
    uint64_t result = (uint64_t)size * UINT64_C(0xd6e8feb86659fd93);
    for (int i = 0; i < 4; i++) {
        PYCDS_LANE_STEP(result, lanes[i]);
    }
    return result;
}

#endif
