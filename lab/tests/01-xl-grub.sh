# xl runs a tiny real kernel as PV and as PVH: the ground that the comparison with xl stands on.
. /xyl-lab/lab/lib.sh

for type in pv pvh; do
	grub_cfg "grub-$type" "$type" >"$scratch/cfg"
	ok xl create "$scratch/cfg"
	within 30 console_says "grub-$type" XYL-GRUB-UP
	ok xl pause "grub-$type"
	matches p "$(domain_state "grub-$type")"
	ok xl destroy "grub-$type"
	within 10 domain_gone "grub-$type"
done
