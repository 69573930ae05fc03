#!/bin/bash
# Compares xyl's core of a PVH guest that stands still with xl's: cargo xtask lab run lab/compare-pvh-cores.sh --timeout-s 1200
# xl asks for each of a million page numbers on its own, which takes minutes here: so this is no test of the usual ones.
. /xyl-lab/lab/lib.sh
testguest_cfg pvh pvh 'memory = 16' >"$scratch/pvh.cfg"
ok xyl create -q "$scratch/pvh.cfg"
within 20 console_says pvh 'testguest: ready'
ok xyl pause pvh
line=$(compared pvh) || exit 1
# xyl has the 36 pages that xl leaves out without a look: those where a PC has its VGA memory, and those below 4 GiB.
equals 'common 4064 differ 0 first 0 second 36' "$line"
ok xyl destroy pvh
