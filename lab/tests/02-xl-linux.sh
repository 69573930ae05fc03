# xl boots Debian's kernel as PVH to its userland, and shuts it down.
# limit_s: 240
# xen: any
. /xyl-lab/lab/lib.sh

linux_cfg linux pvh >"$scratch/cfg"
ok xl create "$scratch/cfg"
within 120 console_says linux XYL-GUEST-UP
ok xl shutdown -w linux
within 30 domain_gone linux
