"""Maps one page of a domain through /dev/xen/privcmd and holds it until its standard input ends.

hold-page.py DOMID GFN; prints `held` when it has it. Facts: Linux' include/uapi/xen/privcmd.h (IOCTL_PRIVCMD_MMAPBATCH_V2).
"""

import ctypes
import fcntl
import mmap
import struct
import sys

MMAPBATCH_V2 = 0x205004

domid, gfn = int(sys.argv[1]), int(sys.argv[2])
device = open("/dev/xen/privcmd", "r+b", buffering=0)
area = mmap.mmap(device.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
frames, errors = (ctypes.c_uint64 * 1)(gfn), (ctypes.c_int * 1)()
request = struct.pack("=IHxxQQQ", 1, domid, address, ctypes.addressof(frames), ctypes.addressof(errors))
fcntl.ioctl(device, MMAPBATCH_V2, request)
if errors[0]:
    sys.exit(f"error {errors[0]}")
print("held", flush=True)
sys.stdin.read()
