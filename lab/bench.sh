#!/bin/bash
# Measures xyl and xl in this boot and leaves performance.md for docs/.
set -euo pipefail
out=/xyl-lab/out/performance.md
. /xyl-lab/lab/initrd.sh
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
modprobe -a xen-blkback xen-netback bridge loop
ip link add xenbr0 type bridge
ip link set xenbr0 up
guest_tree "$folder/tree" xen-blkfront xen-netfront
printf '%s\n' '#!/bin/busybox sh' '. /setup' serve_console >"$folder/tree/init"
pack_tree "$folder/tree" "$folder/initrd"
xen=$(xl info | awk '$1 == "xen_version" { print $3 }')
{
	cat <<HEAD
# Performance

\`cargo xtask bench\` measures xl and xyl in turn, in one boot of Xen $xen under QEMU's software emulation, with one emulated CPU. The absolute
times say nothing about real hardware; the ratios and counts do. Times are medians in milliseconds, with the minimum and the maximum in brackets. A time is
that of the whole command, from its start to its end. strace counts hypercalls, mappings (other requests to privcmd), forks (processes and threads) and
the bytes that the command and its children read. A proxy in front of xenstored counts xenstore requests and bytes. A create leaves a process that
waits for the domain's end. In xyl this process is the one "fork" (a \`clone\` that copies no memory), just before the guest starts. With \`-e\` there
is none. CI enforces the budgets in \`crates/xyl-bench/src/budgets.rs\`.

HEAD
	xyl-bench all --bridge xenbr0 --ramdisk "$folder/initrd" "$@"
	cat <<TAIL

## Where the time goes

The goals for xyl are: a create takes a tenth of xl's time, and a twentieth for a Debian kernel the second time. A create takes at most one and a half
times the floor. The 300th guest takes at most 1.2 times the time of the first. Under emulation these costs stand against them:

- **System calls.** Each system call of a PV dom0 switches page tables twice, and the emulation starts with an empty TLB after each switch. The cheapest
  one takes 17 to 50 microseconds, a page fault 50 to 90. A request to xenstored has seven system calls and takes half a millisecond to one
  millisecond. So the start and end of an idle process (above), with the floor, already take about a tenth of xl's time. A trace of the
  system calls (ftrace) divides the rest of xyl's time into three equal parts. The first is the start of xyl, with 140 to 170 page faults, most of them
  for its code. The second is its 46 requests to xenstored, three times those of the floor. (Now there are 37 for PV and 38 for PVH;
  [operations.md](operations.md) names a reader for each node.) The third is the work before the domain exists: configuration, kernel, name, policy, journal.
- **The guest.** The guest's first instructions run on the one CPU of this dom0. The unpause of a PV guest alone takes 12 ms there, and the guest's
  requests to xenstored and xenconsoled take as long again. For that reason a create introduces the domain to xenstored late, and from then on
  the command has a higher priority than these two daemons.
- **The monitor.** The monitor shares the command's memory until the command ends, because copying the pages (a fork) took 25 to 30 ms. The kernel
  frees this memory, and the mapping of a PVH guest's memory, when the monitor's program starts after the command's end. In this benchmark a destroy
  follows at once, and has to wait for that.
- **Devices.** A disk has 32 nodes and an interface 25 that its drivers and xl read, each in a request of its own: 40 and 37 requests, with the
  rights of folders and the transaction, which go to xenstored as one batch. The goal of 15 requests for a device cannot be had with these nodes. The
  waits for the backends add 6 to 17. A detach waits for the guest, which closes its end of the device first, and xl waits for the same: so the ratio is
  smaller than that of an attach, where xl runs shell scripts.
- **Watches.** At the end of a transaction xenstored checks each changed node against the watches of each connection. A create writes some 40 nodes, and
  each domain and each monitor is a connection. With 120 domains one TRANSACTION_END took 73 ms (ftrace). The floor with 300 guests shows the same. xl
  reads the names of other domains one by one. xyl reads them from \`/run/xyl/names\`, so the time of \`list\` does not grow with their number.

## What the PV shim costs

The shim needs memory, which it takes from the guest's \`memory\`. The shim prints the amount on the guest's console (Xen 4.17). Of a domain of 64 MiB it takes
21.2 MiB and keeps 1 MiB free; of a domain of 400 MiB it takes 23.2 MiB and keeps 1 MiB free. The test guest finds 41 of 64 MiB. A guest also needs
contiguous memory at its start. GRUB did not start in 32 MiB, but did in 64. Debian's Linux did not start in 300 MiB, but did in 400. A
create warns if the memory is below a safe amount.

The shim needs time. In one boot of the lab, GRUB's first line came 2.1 to 3.2 s after the start of \`xyl create\` (64 and 128 MiB).
\`cargo xtask lab run lab/shim-overhead.sh\` compares both kinds of guests in one boot, with 5 runs each. The table has the medians of the time from \`create\`
until the test guest is ready.

| memory | without the shim | in the shim | memory that the guest finds |
|---|---|---|---|
| 64 MiB | 399 ms | 1895 ms | 41 MiB |
| 256 MiB | 450 ms | 1690 ms | 233 MiB |
| 1024 MiB | 856 ms | 1773 ms | 995 MiB |
TAIL
} | tee "$out"
