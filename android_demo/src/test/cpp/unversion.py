"""Copies shared libraries without their symbols' versions, which bionic and glibc name differently.

python unversion.py FROM TO
"""

import struct
import sys

_DT_VERSIONS = {0x6FFFFFF0, *range(0x6FFFFFFC, 0x70000000)}  # DT_VERSYM, DT_VERDEF, DT_VERNEED and their numbers
_DT_IGNORED = 0x6000000F  # of those that systems may define; glibc defines none
_PT_DYNAMIC = 2

data = bytearray(open(sys.argv[1], "rb").read())
headers, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
for header in range(headers, headers + 56 * count, 56):
    if struct.unpack_from("<I", data, header)[0] != _PT_DYNAMIC:
        continue
    offset, size = struct.unpack_from("<Q", data, header + 8)[0], struct.unpack_from("<Q", data, header + 32)[0]
    for entry in range(offset, offset + size, 16):
        if struct.unpack_from("<Q", data, entry)[0] in _DT_VERSIONS:
            struct.pack_into("<Q", data, entry, _DT_IGNORED)
open(sys.argv[2], "wb").write(data)
