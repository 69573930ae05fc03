# `cpuid`: PV and PVH guests of Xyl see the leaves that those of xl see, with bits set, cleared and of the host, in both notations. A register that
# the CPU policy does not have is refused by name, and so is what Xen refuses.
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
cd "$scratch" || fail 'no scratch folder'

leaves=('0 0' '1 0' '7 0' 'd 1' '80000001 0' '80000008 0')
answered() {
	[[ $(xenstore-read "/local/domain/$(domid_of guest)/data/result" 2>/dev/null) == "ok cpuid $1:"* ]]
}
# seen TOOLSTACK FILE: the leaves that the guest sees, as the toolstack makes it. Bits that follow from the CPU it runs on are left out: the APIC ID.
seen() {
	local leaf
	ok "$1" create -q guest.cfg
	within 20 readies guest 1
	: >raw
	for leaf in "${leaves[@]}"; do
		tell guest "cpuid $leaf"
		within 10 answered "$leaf"
		xenstore-read "/local/domain/$(domid_of guest)/data/result" >>raw
	done
	sed -E 's/^(ok cpuid 1 0: [0-9a-f]{8}) ../\1 --/' raw >"$2"
	ok "$1" destroy guest
	within 20 domain_gone guest
	: >"$consoles/guest-guest.log"
}
# value FILE LEAF REGISTER: a register of a leaf, EAX being 4.
value() {
	sed -n "s/^ok cpuid $2: /x x x /p" "$1" | cut -d ' ' -f "$3"
}

for type in pv pvh; do
	echo "$type"
	testguest_cfg guest $type >guest.cfg
	seen xyl plain
	# POPCNT, bit 23 of leaf 1 ECX, which the guest has otherwise; RDRAND, SMAP; SSE4.2 as the host has it; in libxl's notation.
	equals 1 $((0x$(value plain '1 0' 6) >> 23 & 1))
	testguest_cfg guest $type 'cpuid = "host,popcnt=0,rdrand=0,smap=0,sse4_2=k,family=6,model=23"' >guest.cfg
	seen xyl flags
	seen xl flags-xl
	equals '' "$(diff flags flags-xl)"
	equals 0 $((0x$(value flags '1 0' 6) >> 23 & 1))
	equals 0 $((0x$(value flags '7 0' 5) >> 20 & 1))
	# The same in xend's notation.
	testguest_cfg guest $type \
		"cpuid = [ '1:ecx=xxxxxxxx0xxxxxxxxxxxxxxxxxxxxxxx', '7,0:ebx=xxxxxxxxxxx0xxxxxxxxxxxxxxxxxxxx' ]" >guest.cfg
	seen xyl leaves
	seen xl leaves-xl
	equals '' "$(diff leaves leaves-xl)"
	equals 0 $((0x$(value leaves '1 0' 6) >> 23 & 1))
done

echo 'what cannot be is refused by name'
traces >before
testguest_cfg guest pvh "cpuid = [ '2,7:ecx=x0xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' ]" >guest.cfg
refused 'cpuid' xyl create -q guest.cfg
testguest_cfg guest pvh "cpuid = [ '0:eax=1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' ]" >guest.cfg
refused 'leaf' xyl create -q guest.cfg
leaves_nothing before
