/* Frames of Python functions lie in chunks of 16 KB (Python/pystate.c, push_chunk and _PyThreadState_PopFrame, 3.11 to
   3.13). A thread whose depth goes to and fro over the end of a chunk takes one from the operating system and gives it
   back each time: imports, which nest, do so some ninety times while Django is imported, and each is two system calls
   and four page faults. One chunk is kept here, for the process. */
#ifndef PYCDS_FRAME_CHUNKS_H
#define PYCDS_FRAME_CHUNKS_H

/* Puts that into the chain of arena allocators (PyObject_SetArenaAllocator, C API: "Memory Management"), once per
   process, for good. Whoever put an allocator there before still gets every other call, and every chunk. */
void frame_chunks_keep_one(void);

#endif
