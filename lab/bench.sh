#!/bin/bash
# Measures xyl and xl in this boot and leaves performance.md for docs/.
set -euo pipefail
out=/xyl-lab/out/performance.md
xen=$(xl info | awk '$1 == "xen_version" { print $3 }')
{
	cat <<HEAD
# Performance

Measured by \`cargo xtask bench\`: xl and xyl in turn, in one boot of Xen $xen under QEMU's software emulation, one
emulated CPU. Absolute times mean nothing there; ratios and counts do. Times are medians in milliseconds, with the
smallest and the largest in brackets; a time is that of the whole command, from its start to its end. Hypercalls,
mappings (other requests to privcmd), forks (processes and threads) and bytes read are what strace saw of the command and
its children; xenstore requests and bytes were counted by a proxy before xenstored. A create leaves a process that
waits for the domain's end: that is xyl's one "fork" (a \`clone\` that copies no memory), just before the guest starts; with \`-e\` there
is none.
The budgets that CI enforces are in \`crates/xyl-bench/src/budgets.rs\`.

HEAD
	xyl-bench all "$@"
	cat <<TAIL

## Where the time goes

The goals are a tenth of xl's time for a create (a twentieth for a Debian kernel the second time), one and a half times the
floor, and a 300th guest that costs at most 1.2 times the first. What stands in the way under emulation:

- Each system call of a PV dom0 switches page tables twice, and the emulation starts with an empty TLB after each: 17 to 50
  microseconds for the least of them, 50 to 90 for a page fault, and half a millisecond to one for a request to xenstored, which takes
  seven system calls there. So the start and the end of a process that does nothing (above) and the floor together are about a tenth
  of xl's time already. What xyl takes beyond is, in a trace of its system calls (ftrace), in equal parts: its start
  (140 to 170 page faults, most for its code); its 46 requests to xenstored, three times those of the floor; and what comes before the
  domain: configuration, kernel, name, policy, journal.
- The guest's first steps run on the one CPU of this dom0, too: the unpause of a PV guest alone took 12 ms there, and what the guest
  asks of xenstored and xenconsoled as long again. The domain is introduced last for that reason, and the command goes before
  those two from then on, to its end.
- The VM's own process shares the command's memory until the command ends: a fork's copies of pages took 25 to 30 ms. That memory
  goes, with what the command had mapped of a PVH guest, when the VM's process starts, after the command's end: here a destroy
  follows at once and has to wait for that start.
- xenstored tells every connection's watches of every node that a transaction has changed when it ends: a create writes some 40
  nodes, and each domain and each monitor is a connection. With 120 domains one TRANSACTION_END took 73 ms (ftrace). The floor in
  the crowd shows the same. The names of other domains, which xl reads one by one, are not read by xyl (\`/run/xyl/names\`), so
  \`list\` does not grow with them.

## What the PV shim costs

Memory, from the shim's own words on the guest's console (Xen 4.17): 21.2 MiB and 1 MiB kept free of a domain of 64 MiB, 23.2 and 1
of 400 MiB; the test guest finds 41 of 64 MiB. It comes out of \`memory\`. A guest's start needs room in one piece: GRUB did not
start in 32 MiB and did in 64, Debian's Linux not in 300 and did in 400; a create warns below what does for sure.

Time: in one boot of the lab GRUB's line came 2.1 to 3.2 s after the start of \`xyl create\` in the shim (64 and 128 MiB).
\`cargo xtask lab run lab/shim-overhead.sh\` compares both kinds in one boot, 5 runs each (medians; \`create\` until the test guest is
ready): 64 MiB 399 ms bare and 1895 ms in the shim, 256 MiB 450 and 1690 ms, 1024 MiB 856 and 1773 ms; the guest finds 41 of 64 MiB,
233 of 256, 995 of 1024.
TAIL
} | tee "$out"
