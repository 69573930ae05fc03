# Memory and CPU state of a PVH guest, without the engine: the library saves a guest of xyl, suspended and while it runs, and xl
# restores both images; xl saves it, and the library restores it.
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'

# resumed NAME NUMBER: whether the guest has come back so many times, as a new domain.
resumed() {
	console_says "$1" "testguest: resumed $2, new domain"
}
# checks NAME: the guest still runs as it should, with a memory without damage.
checks() {
	tell "$1" memtest
	within 20 result_is "$1" '^ok memtest: [0-9]+ pages, 0 bad$'
}
result_is() {
	xenstore-read "/local/domain/$(domid_of "$1")/data/result" 2>/dev/null | grep -aqE -- "$2"
}
name=image-pvh image=$scratch/pvh
testguest_cfg "$name" pvh 'memory = 16' 'vcpus = 2' >"$image.cfg"
ok xyl create -q "$image.cfg"
within 20 readies "$name" 1
ok build_probe save "$(domid_of "$name")" "$image.ours"
ok xyl check-image "$image.ours"
ok xyl destroy "$name"
ok xl restore "$image.ours"
within 20 resumed "$name" 1
checks "$name"

ok build_probe save-live "$(domid_of "$name")" "$image.live"
ok xl destroy "$name"
ok xl restore "$image.live"
within 20 resumed "$name" 2
checks "$name"

ok xl save "$name" "$image.xls"
within 10 domain_gone "$name"
ok build_probe restore pvh "$image.xls" --memory 16 --vcpus 2 --until 'resumed 3, new domain' --seconds 20
