"""Find the file system that a database lies on, in Linux's own list of mounts.  Pure.

Format: proc(5), /proc/pid/mountinfo.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

MOUNTS = "/proc/self/mountinfo"

# Kinds whose files several machines share, or whose locks another machine keeps.
_NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "glusterfs", "lustre", "beegfs",
     "gpfs", "ocfs2", "gfs2", "orangefs", "davfs")
)  # fmt: skip
_NETWORK_FUSE = re.compile(
    r"fuse\.(sshfs|glusterfs|ceph|s3fs|rclone|gcsfuse|goofys|davfs|davfs2|curlftpfs|smbnetfs|juicefs|mfs|seaweedfs"
    r"|blobfuse2?)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


def network_file_system(path: str, mounts: str) -> str:
    """Return the kind of network file system that the absolute `path` lies on, such as `nfs4`; "" when it lies on none.
    `mounts` is the text of MOUNTS."""
    kind = file_system(path, mounts)
    return kind if kind in _NETWORK or _NETWORK_FUSE.fullmatch(kind) else ""


def file_system(path: str, mounts: str) -> str:
    """Return the kind of file system that is mounted nearest above `path`; "" when the list does not say."""
    nearest, kind = -1, ""
    for line in mounts.splitlines():
        mount, separator, source = line.partition(" - ")
        fields, types = mount.split(), source.split()
        if not separator or len(fields) < 5 or not types:
            continue
        point = PurePosixPath(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if PurePosixPath(path).is_relative_to(point) and len(point.parts) >= nearest:  # the last of one point covers it
            nearest, kind = len(point.parts), types[0]
    return kind
