#include "identity.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "image.h"

extern long PyImport_GetMagicNumber(void); /* any function of the interpreter, for its address */

#ifdef __linux__
#include <link.h>

struct build_search {
    uintptr_t address; /* in: lies in the wanted object */
    char *out;
    size_t out_bytes;
    bool found;
};

static bool
holds(const struct dl_phdr_info *object, uintptr_t address)
{
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t start = object->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && address >= start && address - start < segment->p_memsz) {
            return true;
        }
    }
    return false;
}

/* The description of the note NT_GNU_BUILD_ID among the notes of one segment (elf(5): 4-byte aligned). */
static bool
copy_build_id(const unsigned char *notes, size_t size, char *out, size_t out_bytes)
{
    while (size >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) head;
        memcpy(&head, notes, sizeof(head));
        size_t name = (head.n_namesz + 3u) & ~(size_t)3, description = (head.n_descsz + 3u) & ~(size_t)3;
        if (name > size || description > size || sizeof(head) + name + description > size) {
            return false;
        }
        const unsigned char *bytes = notes + sizeof(head) + name;
        if (head.n_type == NT_GNU_BUILD_ID && head.n_namesz == 4 && memcmp(notes + sizeof(head), "GNU", 4) == 0
            && head.n_descsz > 0 && (size_t)head.n_descsz * 2 + 1 <= out_bytes) {
            for (size_t i = 0; i < head.n_descsz; i++) {
                out[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
                out[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
            }
            out[2 * (size_t)head.n_descsz] = '\0';
            return true;
        }
        notes += sizeof(head) + name + description;
        size -= sizeof(head) + name + description;
    }
    return false;
}

static int
visit_object(struct dl_phdr_info *object, size_t size, void *data)
{
    (void)size;
    struct build_search *search = data;
    if (!holds(object, search->address)) {
        return 0;
    }
    for (int i = 0; i < object->dlpi_phnum && !search->found; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type == PT_NOTE) {
            search->found = copy_build_id(
                (const unsigned char *)(object->dlpi_addr + segment->p_vaddr), segment->p_memsz, search->out,
                search->out_bytes);
        }
    }
    return 1;
}
#endif

bool
interpreter_build(char *out, size_t out_bytes)
{
    /* a function pointer's object representation is its address on every platform with dladdr */
    long (*function)(void) = PyImport_GetMagicNumber;
    void *address;
    memcpy(&address, &function, sizeof(address));
#ifdef __linux__
    struct build_search search = {(uintptr_t)address, out, out_bytes, false};
    dl_iterate_phdr(visit_object, &search);
    if (search.found) {
        return true;
    }
#endif
    Dl_info object;
    struct stat status;
    const char *file = "/proc/self/exe";
    if (dladdr(address, &object) && object.dli_fname != NULL && object.dli_fname[0] == '/') {
        file = object.dli_fname;
    }
    if (stat(file, &status) != 0) {
        return false;
    }
    return (size_t)snprintf(
               out, out_bytes, "stat:%lld:%lld", (long long)status.st_size, (long long)stat_mtime_ns(&status))
           < out_bytes;
}
