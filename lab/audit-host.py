"""Compares `xyl audit --json` with what xl, Xen's log and /proc/cpuinfo say, read here in another way, and with what the
words on the command line claim: TYPE:FAMILY=VERDICT, cpu=MAKER/FAMILY/MODEL/STEPPING, sharing=yes|no, runs:TYPE=yes|no."""

import json
import re
import subprocess
import sys


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True, errors="replace").stdout


audit = json.loads(run("xyl", "audit", "--json"))
log = run("xl", "dmesg")
info = dict(re.findall(r"^(\w+)\s*: ?(.*)$", run("xl", "info"), re.M))
cpu = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", open("/proc/cpuinfo").read().split("\n\n")[0], re.M))
rows = {(row["guest"], row["family"]): row for row in audit["rows"]}
facts = audit["facts"]
problems = []


def expect(what, found, right):
    if found != right:
        problems.append(f"{what}: the audit says {found!r}, right is {right!r}")


def against(guest, family, target):
    return next(one["standing"] for one in rows[guest, family]["against"] if one["target"] == target)


def line(head):
    found = re.search(rf"^\(XEN\) (?:\[[^]]*\] )?  {re.escape(head)}:(.*)$", log, re.M)
    return found.group(1) if found else None


# Where the facts come from.
expect("command line", facts["xen"]["command_line"], info["xen_commandline"])
expect("capabilities", facts["xen"]["capabilities"].split(), info["xen_caps"].split())
expect("version", "{}.{}".format(*facts["xen"]["version"]) + facts["xen"]["extra"], info["xen_version"])
expect("lines not understood", facts["log"]["unrecognised"], [])
expect("sources that are missing", facts["missing"], [])
maker = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}[cpu["vendor_id"]]
expect("CPU", [facts["cpu"]["value"][key] for key in ("vendor", "family", "model", "stepping")],
       [maker] + [int(cpu[key]) for key in ("cpu family", "model", "stepping")])
log_cpu = re.search(r"CPU Vendor: (\w+), Family (\d+) \(.*?\), Model (\d+) ", log)
if log_cpu:
    expect("CPU of the log", [maker, facts["cpu"]["value"]["family"], facts["cpu"]["value"]["model"]],
           [log_cpu[1].lower(), int(log_cpu[2]), int(log_cpu[3])])

# What it makes of them.
settings = line("Xen settings")
support = {True: line("Support for PV VMs").split(), False: line("Support for HVM VMs").split()}
intel = maker == "intel"
expect("whether 32-bit PV can run", "pv32" in audit["runs_here"], "xen-3.0-x86_32p" in info["xen_caps"])
expect("whether PVH can run", "pvh" in audit["runs_here"], "hvm" in info["virt_caps"].split())
for guest in audit["runs_here"]:
    pv = guest in ("pv64", "pv32")
    # Without the features that QEMU's emulation lacks there is no barrier and no clearing of buffers.
    barrier = "IBPB" in settings.split("Other:")[1] or "IBPB-entry" in support[pv]
    expect(f"{guest} v2 between guests", against(guest, "v2", "guests") in ("protected", "partly"), barrier)
    guarded = "RETPOLINE" in settings or "IBRS+" in settings
    if guest != "pv32":
        expect(f"{guest} v2", against(guest, "v2", "hypervisor") == "protected", guarded)
    expect(f"{guest} srso", rows[guest, "srso"]["standing"] == "not-affected", intel)
    if not intel:
        for family in ("v3", "l1tf", "mds", "taa", "srbds", "mmio", "gds", "rfds", "bhi", "its"):
            expect(f"{guest} {family}", rows[guest, family]["standing"], "not-affected")
if intel:
    on = "DomU enabled" in line("XPTI (64-bit PV only)")
    expect("pv64 v3", rows["pv64", "v3"]["standing"], "protected" if on else "unprotected")
    on = "DomU enabled" in line("PV L1TF shadowing")
    vulnerable = "believed vulnerable" in (line("L1TF") or "")
    right = ("protected" if on else "unprotected") if vulnerable else "not-affected"
    expect("pv64 l1tf", rows["pv64", "l1tf"]["standing"], right)
granularity = re.search(r"Scheduling granularity: (\w+)", log)
alone = info["threads_per_core"] == "1" or (granularity and granularity[1] != "cpu")
expect("sharing of cores", audit["core_sharing"], "no" if alone else "yes")

# What was known before the host was booted.
for word in sys.argv[1:]:
    what, _, right = word.partition("=")
    if what == "cpu":
        id = facts["cpu"]["value"]
        found = "/".join([id["vendor"].replace("intel", "Intel").replace("amd", "AMD")]
                         + [str(id[key]) for key in ("family", "model", "stepping")])
    elif what == "sharing":
        found = audit["core_sharing"]
    elif what.startswith("runs:"):
        found = "yes" if what[5:] in audit["runs_here"] else "no"
    else:
        guest, family = what.split(":")
        if (guest, family) not in rows:
            one = json.loads(run("xyl", "audit", "--json", "--type", guest))
            rows.update({(row["guest"], row["family"]): row for row in one["rows"]})
        found = rows[guest, family]["standing"]
    expect(word, found, right)

print("\n".join(problems) or f"as known: {len(rows)} rows, Xen {info['xen_version']}")
sys.exit(bool(problems))
