"""Compares two cores of one domain that stood still: compare-cores.py FIRST SECOND.

Prints what is in each, and a line of numbers: pages in both, those of them that differ, in the first alone, in the second
alone. Fails where the ELF header, the sections' headers, the notes, the registers or the shared info are not the same; places in
the file may differ, and so may the room for pages.
"""

import struct
import sys

PAGE = 4096
NONE = 2**64 - 1
NOTE_HEADER = 0x2000001


def fail(text):
    sys.exit("compare-cores: " + text)


def elf_header(core):
    """All of the header but for where the sections' headers are."""
    return core[:40] + core[48:64]


def sections(core):
    """Offset, size and the rest of each section's header by its name, as the ELF specification has them."""
    if core[:6] != b"\x7fELF\x02\x01":
        fail("no 64-bit ELF file")
    (start,) = struct.unpack_from("<Q", core, 40)
    size, count, names = struct.unpack_from("<HHH", core, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", core, start + size * n) for n in range(count)]
    strings = headers[names][4]

    def name(at):
        return core[strings + at : core.index(b"\0", strings + at)].decode()

    if any(headers[0]):
        fail("the first section is not nothing")
    return {name(one[0]): (one[4], one[5], one[1:4] + one[6:]) for one in headers[1:]}


def notes(core, place):
    found, (at, end) = {}, (place[0], place[0] + place[1])
    while at < end:
        name, size, kind = struct.unpack_from("<III", core, at)
        if core[at + 12 : at + 12 + name] != b"Xen\0":
            fail("a note that is not Xen's")
        found[kind] = core[at + 16 : at + 16 + size]
        at += 16 + size
    return found


def pages(core, places):
    """Where each page is in the file, and its frame, by the domain's own number."""
    table, width = (places[".xen_p2m"], 2) if ".xen_p2m" in places else (places[".xen_pfn"], 1)
    numbers = struct.unpack_from("<%dQ" % (table[1] // 8), core, table[0])
    start, size = places[".xen_pages"][:2]
    if size != table[1] // 8 // width * PAGE:
        fail("%d bytes of pages, %d of numbers" % (size, table[1]))
    own = numbers[::width]
    if list(own) != sorted(own):
        fail("the pages are not in order")
    return {n: (start + i * PAGE, numbers[i * width + width - 1]) for i, n in enumerate(own) if n != NONE}


def main():
    cores = [open(path, "rb").read() for path in sys.argv[1:]]
    places = [sections(core) for core in cores]
    if list(places[0]) != list(places[1]):
        fail("sections %s and %s" % tuple(list(one) for one in places))
    if elf_header(cores[0]) != elf_header(cores[1]):
        fail("ELF headers %s and %s" % tuple(elf_header(core).hex() for core in cores))
    for name in places[0]:
        one, two = (place[name] for place in places)
        print(name, "bytes:", one[1], two[1])
        if one[2] != two[2]:
            fail("%s: kind, flags, address, link, info, alignment, entry size %s and %s" % (name, one[2], two[2]))
    both = [notes(core, one[".note.Xen"]) for core, one in zip(cores, places)]
    room = [struct.unpack_from("<Q", one[NOTE_HEADER], 16)[0] for one in both]
    if room[0] == room[1] and [one[1] for one in places[0].values()] != [one[1] for one in places[1].values()]:
        fail("the sizes of the sections, with room for as many pages")
    for kind in sorted(set(both[0]) | set(both[1])):
        say = [one.get(kind) for one in both]
        if kind == NOTE_HEADER:
            print("magic, vCPUs, pages, page size:", *(struct.unpack("<4Q", one) for one in say))
            # How many pages there is room for may differ.
            say = [one[:16] + one[24:] for one in say]
        if say[0] != say[1]:
            fail("note %#x: %r and %r" % (kind, *say))
    for name in [".xen_prstatus", ".xen_shared_info"]:
        if name in places[0]:
            (first, size, _), (second, other, _) = places[0][name], places[1][name]
            one, two = cores[0][first : first + size], cores[1][second : second + other]
            if one != two:
                at = [i for i, (a, b) in enumerate(zip(one, two)) if a != b]
                fail("%s: %d and %d bytes, %d differ, from %s on" % (name, size, other, len(at), at[:1]))
            print(name, size, "bytes, the same")
    first, second = (pages(core, one) for core, one in zip(cores, places))
    common = first.keys() & second.keys()
    differ = [
        n
        for n in sorted(common)
        if first[n][1] != second[n][1]
        or cores[0][first[n][0] : first[n][0] + PAGE] != cores[1][second[n][0] : second[n][0] + PAGE]
    ]
    for what, some in [
        ("differ", differ),
        ("only in the first", sorted(first.keys() - second.keys())),
        ("only in the second", sorted(second.keys() - first.keys())),
    ]:
        print(what, len(some), " ".join("%x" % n for n in some[:40]))
    print("common", len(common), "differ", len(differ), "first", len(first) - len(common), "second", len(second) - len(common))


main()
