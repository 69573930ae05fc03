# Images of disks in formats that QEMU serves.

# make_image FORMAT FILE [BACKING]: an empty image of 16 MiB. The lab has no qemu-img.
make_image() {
	python3 - "$@" <<'PYTHON'
import struct, sys
kind, path = sys.argv[1:3]
size, cluster = 16 << 20, 65536
if kind == "qcow2":
    name = b"/etc/passwd" if len(sys.argv) > 3 else b""
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 1024 if name else 0, len(name), 16, size, 0, 1, 3 * cluster, cluster, 1, 0, 0)
    parts = [head.ljust(1024, b"\0") + name, struct.pack(">Q", 2 * cluster), struct.pack(">4H", 1, 1, 1, 1), b""]
    image = b"".join(part.ljust(cluster, b"\0") for part in parts)
else:  # A fixed VHD: the disk, and a footer.
    sectors = size // 512
    geometry = struct.pack(">HBB", sectors // (4 * 17), 4, 17)
    size = sectors // (4 * 17) * 4 * 17 * 512
    footer = struct.pack(">8sIIQI4sI4sQQ4sI", b"conectix", 2, 0x10000, 0xFFFFFFFFFFFFFFFF, 0, b"qem2", 0x50003, b"Wi2k", size, size, geometry, 2)
    footer += b"\0" * 4 + b"\1" * 16
    total = ~sum(footer) & 0xFFFFFFFF
    footer = footer[:64] + struct.pack(">I", total) + footer[68:]
    image = b"\0" * size + footer.ljust(512, b"\0")
open(path, "wb").write(image)
PYTHON
	chmod 600 "$2"
}
