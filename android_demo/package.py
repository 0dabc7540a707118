"""Adds files to an app that aapt2 linked: python package.py APK FOLDER adds a folder's files under their paths there.

Dex files are compressed. All else is stored and starts on a page of 16 KiB, so that it can be mapped from the app's
file. A field says so, which apksigner heeds when it writes the signed app.
"""

import pathlib
import struct
import sys
import zipfile

_ALIGNMENT_FIELD = 0xD935  # of the extra data of an entry, as Android's own tools write it
_PAGE = 16384
_LOCAL_HEADER = 30  # bytes, before name and extra data

folder = pathlib.Path(sys.argv[2])
with zipfile.ZipFile(sys.argv[1], "a") as archive:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        entry = zipfile.ZipInfo(str(path.relative_to(folder)))
        if path.suffix == ".dex":
            entry.compress_type = zipfile.ZIP_DEFLATED
        else:
            field = struct.Struct("<HHH")
            start = archive.start_dir + _LOCAL_HEADER + len(entry.filename.encode()) + field.size
            padding = -start % _PAGE
            entry.extra = field.pack(_ALIGNMENT_FIELD, 2 + padding, _PAGE) + bytes(padding)
        archive.writestr(entry, path.read_bytes())
