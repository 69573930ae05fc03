# xl.cfg as xl reads it and as xl-cfg reads it: the same configurations taken and refused, the same guests made of them.
# Each case says what is expected: "same", or "strict" where xl goes on without a setting that it cannot read and
# xl-cfg refuses, or "lenient" where xl refuses a file for its form alone.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh

ok command -v cfg_dump
cat >"$scratch/cases" <<'CASES'
==== same
memory = 128
==== same
memory = "0x80"; maxmem = 256; vcpus = ' 2'; maxvcpus = 4
==== same
memory = 0100
==== same
maxmem = 64
==== same
type = "pvh"; pvshim = 1; pvshim_extra = "loglvl=all"; pvshim_path = "/shim"
==== same
type = 'hvm'; kernel = ''
bios = "seabios"; boot = "dc"; vga = "stdvga"; videoram = 32; usbdevice = [ "tablet" ]; usb = 1
vnc = 1; vnclisten = "127.0.0.1"; acpi = 0; hpet = 0; localtime = 1; timer_mode = "no_missed_ticks_pending"
==== same
builder = "hvm"; kernel = "/usr/lib/xen-4.17/boot/hvmloader"; device_model = "qemu-dm"; viridian = 1; tsc_mode = 1
==== same
builder = "generic"; type = "pv"
==== same
builder = "hvm"; type = "pv"
==== same
type = "pvm"
==== same
vcpus = 3; cpus = "0-3,^1"; cpus_soft = [ "1", "2,3", "all,^0" ]
==== same
vcpus = 2; cpus = [ 1 ]
==== same
cpus = "0-x"
==== same
cpus = "3-1"
==== same
cpus = "all,^all"
==== same
root = "/dev/xvda1 ro"; extra = 'quiet "x\\y"'
==== same
cmdline = "a\tb"; extra = "c"
==== same
cmdline = ""; root = "x"
==== same
ramdisk = '/initrd'; uuid = "6c2b0b1e-3d2a-4f55-9a0e-0d4f8c1a7b21"
==== same
uuid = "6c2b0b1e"
==== same
on_poweroff = "preserve"; on_reboot = "rename-restart"; on_crash = "coredump-destroy"; on_watchdog = "restart"
==== same
on_crash = "explode"
==== same
disk = [ '/dev/vg/guest,,hda', '/dev/vg/guest,raw,hdb,rw', 'format=raw, vdev=xvdc, access=ro, target=/a, b=c' ]
==== same
disk = [ 'raw:/dev/vg/guest,hda,w', 'tap:qcow2:/x.img,xvdb,r', 'phy:/dev/x,sda1,w', 'file:/i.iso,hdc:cdrom,r' ]
==== same
disk = [ '/i.iso,,hdc,cdrom', '/i.iso,raw,hdb,devtype=cdrom', ',hdd:cdrom,r', 'vdev=hda,cdrom' ]
==== same
disk = [ 'vdev=xvda,backendtype=qdisk,format=qcow2,direct-io-safe,no-discard,target=/x,' ]
==== same
disk = [ 'nbd:host 20004,xvda,w', 'script=block-x,vdev=xvdb,backend=storage,target=id' ]
==== same
disk = [ '/x,raw,xvda,x' ]
==== same
disk = [ '/x,qcow3,xvda' ]
==== same
disk = [ '/x' ]
==== same
disk = [ '/x=y,raw,xvda' ]
==== same
disk = [ 'http://x,raw,xvda' ]
==== same
disk = [ 'vdev=xvda,vdev=xvdb,target=/x' ]
==== same
disk = [ '/x,raw,xvda,w,more' ]
==== same
disk = [ 'vdef=xvda,target=/x' ]
==== same
disk = [ 'vdev=xvda,format=raw' ]
==== same
vif = [ '', 'mac=00:16:3e:0a:0b:0c,bridge=xenbr0,model=e1000,type=ioemu', 'ip=192.0.2.1,script=vif-x,vifname=v0' ]
==== same
vif = [ 'rate=10Mb/s', 'rate=250KB/s', 'rate=1MB/s@20ms,backend=net,devid=7,mtu=9000', 'gatewaydev=eth0' ]
==== same
vif = [ 'rate=10' ]
==== strict
vif = [ 'brigde=xenbr0' ]
==== same
vif = [ 'mac=0:16:3E:1:2:3' ]
==== same
pci = [ '03:00.0', '0000:04:00.1@8,permissive=1' ]; pci_seize = 1
==== same
pci = [ '03:00' ]
==== same
pci = [ '03:00.0,speed=1' ]
==== same
vcpus = 2; maxvcpus = 1
==== same
cpu_weight = 512; cap = 50; max_grant_frames = 64; max_event_channels = 4095; nomigrate = 1; pool = "Pool-0"
==== same
max_grant_frames = "-1"
==== same
tsc_mode = "always_emulate"; passthrough = "disabled"; rtc_timeoffset = "-3600"
==== same
tsc_mode = "never"
==== same
timer_mode = 1
==== same
bootloader = "pygrub"; bootloader_args = [ "-q", "--kernel=/k" ]; kernel = "/k"
==== same
bootloader = "/bin/loader"; bootloader_args = "-q  --kernel=/k"
==== same
firmware = "pvgrub64"
==== same
firmware = "ovmf"
==== same
vfb = [ 'vnc=1,vncdisplay=3,vnclisten=0.0.0.0' ]
==== same
vnc = 1; vncdisplay = 2
==== same
vif = [ 'bridge=a' ]
vif += [ 'bridge=b', ]
cmdline = "x"; cmdline += ' y'
==== same
vcpus = 2
vcpus = 3
==== same
vif = [
    # a comment
    '',

    'bridge=b'   # another

]
==== same
vif = ''; disk = ''; pci = ''
==== same
type = "pvh"; device_model_version = "qemu-xen-traditional"
==== same
vif = [ , '' ]
==== same
vif = [ '' '' ]
==== same
vif = [ '',
==== same
vif = [ '' ] ]
==== same
vif = [ '' ]; vif += 'x'
==== same
Vcpus = 2
==== same
vcpus = -1
==== same
vcpus = 1.5
==== same
vcpus = 0xFF
==== same
vcpus = 2 maxvcpus = 2
==== same
vcpus == 2
==== same
vcpus =
==== same
vcpus
==== same
cmdline = "never closed
==== same
cmdline = 'it's'
==== same
cmdline = "\q"
==== lenient
cmdline = "\x41"
==== same
cmdline = quiet
==== same
localtime = True
==== same
import os
==== same
memory=64;;;vcpus=1;
==== same
nobody.knows_this9 = [ [ 1, '2' ], [ ] ]
==== strict
memory = "lots"
==== strict
memory = [ 64 ]
==== strict
memory = 0
==== strict
memory = 08
==== strict
memory = 64; maxmem = 32
==== strict
vcpus = 0
==== strict
vcpus = 1; vcpus += 1
==== strict
disk = '/x,raw,xvda'
==== strict
disk = [ [ '/x,raw,xvda' ] ]
==== strict
disk = [ '/x,raw,vda' ]
==== strict
disk = [ '/x,raw,xvda', '/y,raw,51712' ]
==== strict
vif = [ 'mac=nothing' ]
==== strict
vif = [ 'mac=01:00:00:00:00:01' ]
==== strict
type = "h"
==== strict
name = "a/b"
==== strict
name = "17"
==== strict
name = "my guest"
==== same
name = "instance1.example.com"
==== strict
cpuid = "tm=0"
CASES

printf 'name = "g"\r\nkernel = "/k"\r\n' >"$scratch/crlf"
printf '\357\273\277name = "g"\nkernel = "/k"\n' >"$scratch/bom"
printf 'name = "g"\nkernel = "/k"\n# no line end' >"$scratch/comment"

cat >"$scratch/compare.py" <<'PYTHON'
import json, re, subprocess, sys

scratch = sys.argv[1]
failures = 0


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    try:
        return json.loads(done.stdout) if done.returncode == 0 else None, done.stderr
    except ValueError:
        return None, done.stderr + done.stdout


def cpus(affinity, vcpu, host=range(8)):
    """The host CPUs of a vCPU, all of them taken to be of node 0; None if it has no affinity."""
    if affinity is None:
        return None
    lists = affinity.get("per-vcpu")
    if lists is not None and vcpu >= len(lists):
        return None
    found = set()
    for step in lists[vcpu] if lists is not None else affinity["every-vcpu"]:
        span = set(host) if step["range"] == "all" else None
        if span is None:
            (_, ends), = step["range"].items()
            span = set(range(ends["first"], ends["last"] + 1))
        found = found - span if step["exclude"] else found | span
    return sorted(found & set(host))


def xl_affinity(maps, nr):
    if maps is None:
        return [None] * nr
    # A full map is written as such by xl, in as many bytes as the host has CPUs.
    return [sorted(maps[i])[:8] if i < len(maps) else None for i in range(nr)]


def action(name):
    return {"restart_rename": "rename-restart"}.get(name, name.replace("_", "-"))


def of_xl(j):
    c, b = j["c_info"], j["b_info"]
    own = next((value for key, value in b.items() if key.startswith("type.")), {})
    vcpus = b.get("avail_vcpus") or [0]
    # xl makes a path of `firmware` here; xl-cfg leaves that to the engine.
    kernel = None if re.search(r"/pvgrub\d+\.bin$", b.get("kernel", "")) else b.get("kernel")
    nr = b.get("max_vcpus") or len(vcpus)
    return {
        "name": c["name"],
        "type": c["type"],
        "pool": c.get("pool_name"),
        # libxl fills in what is missing later.
        "memory": (b.get("target_memkb", b.get("max_memkb")), b.get("max_memkb")),
        "vcpus": (len(vcpus), nr),
        "cpus": xl_affinity(b.get("vcpu_hard_affinity"), nr),
        "cpus_soft": xl_affinity(b.get("vcpu_soft_affinity"), nr),
        "boot": [kernel] + [b.get(key) for key in ("ramdisk", "cmdline", "bootloader")],
        "bootloader_args": b.get("bootloader_args") or [],
        "shim": [own.get(key) for key in ("pvshim_path", "pvshim_cmdline", "pvshim_extra")],
        "on": [action(j.get("on_" + key, "destroy")) for key in ("poweroff", "reboot", "watchdog", "crash", "soft_reset")],
        "weight": b["sched_params"].get("weight"),
        "cap": b["sched_params"].get("cap"),
        "grants": b.get("max_grant_frames"),
        "channels": b.get("event_channels") or 1023,
        "tsc": b.get("tsc_mode", "default"),
        "timer": b.get("timer_mode"),
        "rtc": (b.get("rtc_timeoffset", 0) + 2**31) % 2**32 - 2**31,
        "localtime": b.get("localtime") == "True",
        "passthrough": c.get("passthrough", "default"),
        "nomigrate": b.get("disable_migrate") == "True",
        "e820": own.get("e820_host") == "True",
        "hvm": [own.get("bios"), own.get("boot"), (own.get("vga") or {}).get("kind", "").replace("std", "stdvga") or None,
                own.get("usbdevice_list") or []] if c["type"] == "hvm" else None,
        "vfbs": [(v["vnc"].get("enable"), v["vnc"].get("display")) for v in j.get("vfbs", [])],
        "disks": [[d.get("pdev_path") or None, d["vdev"], d["format"], d.get("readwrite", 0) == 1, d.get("is_cdrom", 0) == 1,
                   d.get("script"), d.get("backend_domname"), d.get("backend"), d.get("direct_io_safe", False),
                   d.get("discard_enable")] for d in j.get("disks", [])],
        "vifs": [[n.get("mac"), n.get("bridge"), n.get("model"), n.get("ip"), n.get("ifname"), n.get("script"),
                  n.get("gatewaydev"), n.get("backend_domname"), n.get("mtu") or None, n.get("rate_bytes_per_interval"),
                  n.get("rate_interval_usecs"), n.get("devid"),
                  {"vif_ioemu": "ioemu"}.get(n.get("nictype"), n.get("nictype"))] for n in j.get("nics", [])],
        "pci": [["%04x:%02x:%02x.%x" % (p.get("domain", 0), p.get("bus", 0), p.get("dev", 0), p.get("func", 0)),
                 p.get("vdevfn", 0) >> 3, bool(p.get("permissive")), bool(p.get("seize"))] for p in j.get("pcidevs", [])],
    }


def of_xyl(j):
    processors, boot, hvm = j["processors"], j["boot"], j["hvm"]
    nr = processors["max_vcpus"]
    flag = {True: "True", False: "False", None: None}
    return {
        "name": j["name"],
        "type": j["type"],
        "pool": j["platform"]["pool"],
        "memory": (j["memory"]["target_mib"] * 1024, j["memory"]["max_mib"] * 1024),
        "vcpus": (processors["vcpus"], nr),
        "cpus": [cpus(processors["hard_affinity"], i) for i in range(nr)],
        "cpus_soft": [cpus(processors["soft_affinity"], i) for i in range(nr)],
        "boot": [boot[key] for key in ("kernel", "ramdisk", "cmdline", "bootloader")],
        "bootloader_args": boot["bootloader_args"],
        "shim": [boot["shim"][key] for key in ("path", "cmdline", "extra")],
        "on": [j["actions"]["on_" + key] for key in ("poweroff", "reboot", "watchdog", "crash", "soft_reset")],
        "weight": processors["scheduling"]["weight"],
        "cap": processors["scheduling"]["cap_percent"],
        "grants": j["limits"]["max_grant_frames"],
        "channels": j["limits"]["max_event_channels"],
        "tsc": j["time"]["tsc_mode"] or "default",
        "timer": j["time"]["timer_mode"],
        "rtc": j["time"]["rtc_offset_s"] or 0,
        "localtime": j["time"]["localtime"] is True,
        "passthrough": j["platform"]["passthrough"] or "default",
        "nomigrate": j["platform"]["no_migrate"] is True,
        "e820": j["platform"]["e820_host"] is True,
        "hvm": [hvm["bios"], hvm["boot_order"], hvm["vga"], hvm["usb_devices"]] if hvm else None,
        "vfbs": [(flag[v["vnc"]["enabled"]], v["vnc"]["display"]) for v in j["framebuffers"]],
        "disks": [[d["target"], d["vdev"]["name"], d["format"], d["writable"], d["cdrom"], d["script"], d["backend"],
                   d["backend_type"], d["direct_io_safe"], flag[d["discard"]]] for d in j["disks"]],
        "vifs": [[n["mac"], n["bridge"], n["model"], n["ip"], n["name"], n["script"], n["gateway_dev"], n["backend"],
                  n["mtu_bytes"], n["rate"] and n["rate"]["bytes_per_interval"], n["rate"] and n["rate"]["interval_us"],
                  i if n["devid"] is None else n["devid"], n["vif_type"]] for i, n in enumerate(j["vifs"])],
        "pci": [["%04x:%02x:%02x.%x" % tuple(p["which"]["address"][key] for key in ("segment", "bus", "device", "function")),
                 p["virtual_slot"] or 0, p["permissive"], p["seize"]] for p in j["pci"]],
    }


def check(expected, path, text):
    global failures
    xl, xl_said = run("xl", "-N", "create", "-q", path)
    xyl, xyl_said = run("cfg_dump", path)
    wanted = {"same": xl is not None, "strict": False, "lenient": True}[expected]
    faults = []
    if expected == "strict" and xl is None or expected == "lenient" and xl is not None:
        faults.append("xl no longer differs")
    if (xyl is not None) != wanted:
        faults.append("xl %s, xl-cfg %s" % tuple("takes it" if j else "refuses it" for j in (xl, xyl)))
    if xl and xyl:
        theirs, ours = of_xl(xl), of_xyl(xyl)
        faults += ["%s: xl %r, xl-cfg %r" % (key, theirs[key], ours[key]) for key in theirs if theirs[key] != ours[key]]
    if faults:
        failures += 1
        print("FAILED (%s):" % expected, text, *faults, "xl: " + xl_said, "xl-cfg: " + xyl_said, sep="\n")


cases = re.findall(r"^==== (\w+)\n(.*?)(?=^====|\Z)", open(scratch + "/cases").read(), re.S | re.M)
for expected, text in cases:
    base = {"name": 'name = "guest"', "memory": "memory = 64", "kernel": 'kernel = "/k"'}
    given = set(re.findall(r"(?:^|;)\s*(name|memory|maxmem|kernel|bootloader|firmware)\s*=", text, re.M))
    if "maxmem" in given: base.pop("memory")
    if given & {"bootloader", "firmware"}: base.pop("kernel")
    # The case comes last, so that what it leaves open swallows nothing.
    full = "\n".join(line for key, line in base.items() if key not in given) + "\n" + text.replace("kernel = ''\n", "\n")
    path = scratch + "/guest.cfg"
    open(path, "w").write(full)
    check(expected, path, text)
for name in "crlf", "bom", "comment":
    check("lenient", scratch + "/" + name, name)
print("%d configurations compared" % (len(cases) + 3))
sys.exit(failures > 0)
PYTHON
ok python3 "$scratch/compare.py" "$scratch"
