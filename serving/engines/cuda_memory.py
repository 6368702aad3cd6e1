"""Arrays on an NVIDIA GPU through the driver's own library: what TensorRT reads and writes, without torch or CuPy.

CUDA Driver API (libcuda.so.1, which comes with the driver): names and arguments from its reference manual, sections
Primary Context, Memory and Stream Management.
"""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import numpy as np

from serving.bundle.answer import Array

LIBRARY = "libcuda.so.1"


class CudaError(RuntimeError):
    """The driver refused a call: its name and the driver's number."""


def missing() -> str | None:
    """Why there is no GPU to use here; None where there is one."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError as error:
        return f"no NVIDIA driver ({error})"
    count = ctypes.c_int()
    if code := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the NVIDIA driver does not start (error {code})"
    return None if count.value else "no NVIDIA GPU"


class Memory:
    """Room on the first GPU by name, grown as needed, and one stream."""

    def __init__(self) -> None:
        """Raises CudaError where the driver does not start, OSError where there is none."""
        self.driver = ctypes.CDLL(LIBRARY)
        self.rooms: dict[str, tuple[ctypes.c_uint64, int]] = {}
        self.context, device, self.stream = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(self.stream), 0)

    def enter(self) -> None:
        """Make the GPU current in this thread: a gateway opens a graph in one thread and asks it in another."""
        self._call("cuCtxSetCurrent", self.context)

    def room(self, name: str, size: int) -> int:
        """The address of at least `size` bytes kept under a name."""
        address, held = self.rooms[name] if name in self.rooms else (ctypes.c_uint64(), 0)
        if held < max(1, size):
            if held:
                self._call("cuMemFree_v2", address)
            address = ctypes.c_uint64()
            self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
            self.rooms[name] = address, max(1, size)
        return int(address.value)

    def put(self, name: str, values: Array) -> int:
        """Copy a contiguous array to the GPU, in stream order; its address."""
        address = self.room(name, values.nbytes)
        if values.nbytes:
            pointer, size = values.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(values.nbytes)
            self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), pointer, size, self.stream)
        return address

    def get(self, name: str, shape: tuple[int, ...], kind: Any) -> Array:
        """Copy an array back, after all that the stream was given; waits for it."""
        values = np.empty(shape, kind)
        if values.nbytes:
            pointer, size = values.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(values.nbytes)
            self._call("cuMemcpyDtoHAsync_v2", pointer, self.rooms[name][0], size, self.stream)
        self._call("cuStreamSynchronize", self.stream)
        return values

    def close(self) -> None:
        """Give all memory back."""
        for address, _ in self.rooms.values():
            self._call("cuMemFree_v2", address)
        self.rooms.clear()

    def __del__(self) -> None:
        with contextlib.suppress(CudaError, AttributeError, TypeError):  # the driver may be gone at the end
            self.close()

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self.driver, name)(*arguments):
            raise CudaError(f"{name}: error {code}")
