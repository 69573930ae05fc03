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
waits for the domain's end: that is xyl's one fork, just before the guest starts; with \`-e\` there is none.
The budgets that CI enforces are in \`crates/xyl-bench/src/budgets.rs\`.

HEAD
	xyl-bench all "$@"
	cat <<TAIL
## Where the time goes

The goals are a tenth of xl's time for a create (a twentieth for a Debian kernel the second time), one and a half times the
floor, and a 300th guest that costs at most 1.2 times the first. What stands in the way under emulation:

- Each system call of a PV dom0 switches page tables twice, and the emulation starts with an empty TLB after each: 25 to 50
  microseconds for the least of them. A process that does nothing takes tens of milliseconds so, and a request to xenstored, which
  takes seven system calls there, half a millisecond to one.
- So a create is the start and end of its process, 46 xenstore requests and the floor's hypercalls, in about equal parts,
  and the start of the process that watches over the VM.
- xenstored looks at the ring of every domain each time that it wakes, so each request takes longer the more domains there
  are: the floor in the crowd shows it. The names of other domains, which xl reads one by one, are not read by xyl
  (\`/run/xyl/names\`), so \`list\` does not grow with them.
TAIL
} | tee "$out"
