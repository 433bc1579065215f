"""C++ names as they are in the source, by the demangler of the C++ library that is here, if there is one."""

from __future__ import annotations

import ctypes
import functools

LONGEST = 2048
"""A mangled name that is longer stays as it is."""
STRING = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >"
LIBRARIES = ("libstdc++.so.6", "libc++abi.so.1")


def demangle(name: str) -> str:
    """A symbol without its encoding (Itanium C++ ABI, 5.1); any other name as it is."""
    return _demangle(name) if name.startswith("_Z") else name


def demangle_type(name: str) -> str:
    """The name of a type as ``std::type_info::name`` gives it."""
    if not name.isascii() or not name.replace("_", "").isalnum():
        return name
    return _demangle(name).replace(STRING, "std::string")


@functools.lru_cache(4096)
def _demangle(name: str) -> str:
    library = _library()
    if library is None or len(name) > LONGEST or not name.isascii():
        return name
    status = ctypes.c_int(-1)
    found = library.__cxa_demangle(name.encode(), None, None, ctypes.byref(status))
    if not found:
        return name
    try:
        text = ctypes.string_at(found) if status.value == 0 else name.encode()
    finally:
        _c().free(ctypes.c_void_p(found))
    return text.decode(errors="surrogateescape")


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            library.__cxa_demangle.restype = ctypes.c_void_p
        except (OSError, AttributeError):
            continue
        library.__cxa_demangle.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        return library
    return None


@functools.cache
def _c() -> ctypes.CDLL:
    return ctypes.CDLL(None)
