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
} | tee "$out"
