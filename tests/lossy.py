"""A FUSE file system that may lose its bytes, as those of a network do: lossy.py MOUNTPOINT FOLDER CONTROL.

Shows FOLDER, read-only. While a file CONTROL exists, its text says what goes wrong: "error" (reading fails), "short" (files
end early), "gone" (there are no files). Root only; needs /dev/fuse. Speaks the kernel's protocol itself (linux/fuse.h), so
that there is no library to install. Ends when it is unmounted.
"""

import ctypes
import errno
import os
import stat
import struct
import sys

HEADER = struct.Struct("=IIQQIIII")  # struct fuse_in_header
ANSWER = struct.Struct("=IiQ")  # struct fuse_out_header
READ = struct.Struct("=QQII")  # struct fuse_read_in, as far as it is needed
LOOKUP, FORGET, GETATTR, OPEN, READ_FILE, STATFS, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 17, 18, 25, 26
OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 27, 28, 29, 36, 42


class FileSystem:
    def __init__(self, folder: str, control: str) -> None:
        self.paths = {1: folder}  # node id -> path; the root is 1
        self.nodes = {folder: 1}
        self.control = control

    def wrong(self) -> str:
        try:
            with open(self.control) as file:
                return file.read()
        except OSError:
            return ""

    def attributes(self, path: str) -> bytes:
        found = os.lstat(path)
        if self.wrong() == "gone" and stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "gone")
        seconds = [int(found.st_atime), int(found.st_mtime), int(found.st_ctime)]
        parts = [0, found.st_mtime_ns % 10**9, found.st_ctime_ns % 10**9]
        return struct.pack(
            "=6Q10I", found.st_ino, found.st_size, found.st_blocks, *seconds, *parts, found.st_mode, found.st_nlink,
            found.st_uid, found.st_gid, 0, 4096, 0,
        )  # fmt: skip

    def answer(self, operation: int, node: int, body: bytes) -> bytes:
        """Raises OSError for an error."""
        if operation == INIT:
            return struct.pack("=IIIIHHIIHH8I", 7, 31, 0, 0, 0, 0, 65536, 1, 0, 0, *[0] * 8)
        path = self.paths[node]
        if operation == LOOKUP:
            path = os.path.join(path, os.fsdecode(body.rstrip(b"\0")))
            told = self.attributes(path)
            known = self.nodes.setdefault(path, len(self.nodes) + 1)
            self.paths[known] = path
            return struct.pack("=QQQQII", known, 0, 0, 0, 0, 0) + told
        if operation == GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self.attributes(path)
        if operation in (OPEN, OPENDIR):
            self.attributes(path)
            return struct.pack("=QII", 0, 0, 0)
        if operation == READ_FILE:
            _, offset, size, _ = READ.unpack_from(body)
            wrong = self.wrong()
            if wrong in ("error", "gone"):
                raise OSError(errno.EIO, "lost")
            with open(path, "rb") as file:
                return b"" if wrong == "short" else os.pread(file.fileno(), size, offset)
        if operation == READDIR:
            _, offset, _, _ = READ.unpack_from(body)
            told = b""
            for number, name in enumerate([".", "..", *sorted(os.listdir(path))], 1):
                if number > offset:
                    text = os.fsencode(name)
                    told += struct.pack("=QQII", number, number, len(text), 0) + text + bytes(-len(text) % 8)
            return told[:4096]  # our folders are small
        if operation == STATFS:
            return struct.pack("=5Q4I6I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6)
        if operation in (RELEASE, RELEASEDIR, FLUSH):
            return b""
        raise OSError(errno.ENOSYS, "no such operation")

    def serve(self, device: int) -> None:
        while True:
            try:
                request = os.read(device, 1 << 20)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue  # the request was taken back
                return  # unmounted
            _, operation, unique, node, *_ = HEADER.unpack_from(request)
            if operation in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            try:
                status, told = 0, self.answer(operation, node, request[HEADER.size :])
            except OSError as error:
                status, told = -error.errno, b""
            os.write(device, ANSWER.pack(ANSWER.size + len(told), status, unique) + told)


def main() -> None:
    mountpoint, folder, control = sys.argv[1:]
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    read_only_no_devices_no_set_uid = 1 | 2 | 4
    if libc.mount(b"lossy", os.fsencode(mountpoint), b"fuse", read_only_no_devices_no_set_uid, options) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    print("mounted", flush=True)
    FileSystem(folder, control).serve(device)


if __name__ == "__main__":
    main()
