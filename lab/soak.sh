#!/bin/bash
# What each boot of the soak does: guests of each type that emulation has trouble with, made and ended by xl.
. /xyl-lab/lab/lib.sh

for round in 1 2 3; do
	for type in pv pvh; do
		grub_cfg "grub-$type" "$type" >"$scratch/cfg"
		ok xl create -q "$scratch/cfg"
		within 30 console_says "grub-$type" XYL-GRUB-UP
		ok xl destroy "grub-$type"
		rm -f "$consoles/guest-grub-$type.log"
	done
done
linux_cfg linux pvh >"$scratch/cfg"
ok xl create -q "$scratch/cfg"
within 120 console_says linux XYL-GUEST-UP
ok xl shutdown -w linux
