import os

from setuptools import Extension, setup

flags = ["-std=c11", "-D_GNU_SOURCE=1", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
flags += os.environ.get("NATIVE_FLAGS", "").split()
names = ["native_layout", "native_arena", "native_decode", "native_encode", "native_module"]
setup(
    name="native",
    ext_modules=[
        Extension(
            "_native",
            sources=[name + ".c" for name in names],
            extra_compile_args=flags,
            extra_link_args=os.environ.get("NATIVE_FLAGS", "").split(),
            depends=["checksum.h", *[name + ".h" for name in names[:-1]], "native_format.h"],
        )
    ],
)
