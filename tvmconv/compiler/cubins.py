"""Finds the CUDA machine code in a library, and requires it after a build."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from tvmconv.compiler.toolchain import cuda_arch
from tvmconv.errors import ToolchainError

# e_ident's ABI version, e_machine, e_phoff, e_shoff, e_flags, then entry sizes and counts.
_ELF_HEADER = struct.Struct("<8xB9xH12xQQI2xHHHH2x")
_ELF_SECTION = struct.Struct("<4xI16xQQ24x")  # sh_type, sh_offset, sh_size


def find_cubins(path: Path | str) -> dict[str, list[bytes]]:
    """Returns the cubins in a file by architecture, such as ``sm_90``.

    A cubin is an ELF file. TVM's libraries contain it as it is (from NVRTC) or in a fat binary
    (from nvcc, uncompressed and without PTX); both are found by their ELF headers. A cubin for
    sm_90a is listed as sm_90. Raises ``OSError``.
    """
    data = Path(path).read_bytes()
    found: dict[str, list[bytes]] = {}
    for match in re.finditer(rb"\x7fELF\x02\x01", data):
        if cubin := _cubin_at(data, match.start()):
            found.setdefault(cubin[0], []).append(cubin[1])
    return found


def _cubin_at(data: bytes, start: int) -> tuple[str, bytes] | None:
    """Architecture and bytes of a cubin that begins at ``start``; None if there is none."""
    if start + _ELF_HEADER.size > len(data):
        return None
    abi, machine, programs, sections, flags, *table = _ELF_HEADER.unpack_from(data, start)
    program_bytes, n_programs, section_bytes, n_sections = table
    ends = [programs + program_bytes * n_programs, sections + section_bytes * n_sections]
    if machine != 190 or section_bytes != 64 or start + max(ends) > len(data):  # 190: EM_CUDA
        return None
    for i in range(n_sections):
        kind, offset, size = _ELF_SECTION.unpack_from(data, start + sections + 64 * i)
        if kind != 8:  # SHT_NOBITS: has no bytes in the file
            ends.append(offset + size)
    # ELF ABI 7 has the compute capability in the low byte of the flags, ABI 8 in the next.
    number = flags & 0xFF if abi < 8 else flags >> 8 & 0xFF
    return f"sm_{number}", data[start : start + max(ends)]


def require_cubin(path: Path | str, arch: str) -> None:
    """Checks that a library has machine code for ``arch``.

    Raises `ToolchainError` if it has none, `TargetError` for an unknown ``arch``, and ``OSError``.
    """
    found = find_cubins(path)
    if f"sm_{cuda_arch(arch).sm}" in found:
        return
    note = f"it has some for {', '.join(sorted(found))}" if found else "it has none for any GPU"
    raise ToolchainError(
        f"{Path(path).name} has no machine code for {arch}",
        note=note,
        hint=f"call prepare_cuda({arch!r}) before the build, and build under `with target:`",
    )
