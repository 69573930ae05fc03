# Names of domains that xyl watches over come from its index, and are right whoever changes them.
# limit_s: 90
# xen: any
. /xyl-lab/lab/lib.sh
command -v xyl >/dev/null || skip 'no xyl here'
index=/run/xyl/names

# make NAME OPTION...: a paused domain.
make() {
	local name=$1
	shift
	printf 'name = "%s"\ntype = "pv"\nkernel = "%s"\nmemory = 16\n' "$name" "$guests/testguest" >"$scratch/$name.cfg"
	ok xyl create -q -p "$@" "$scratch/$name.cfg"
}
# shows NAME: whether xyl's list has a domain of that name, and a look-up finds it.
shows() {
	xyl list | grep -q "^$1 " && xyl domid "$1" >/dev/null
}
indexed() {
	grep -q " $1\$" "$index"
}

make names-a
within 20 indexed names-a
uuid=$(xyl list --json names-a | grep -o '"uuid": *"[^"]*"' | cut -d'"' -f4)

# Reading the list of a host whose domains are watched over asks xenstore for nothing but the rest.
make names-b -e
indexed names-b && fail 'nobody watches over names-b, yet it is in the index'
shows names-b || fail 'names-b is not in the list'

# A name that xl changes.
ok xl rename names-a names-c
within 10 shows names-c
shows names-a && fail 'the old name is found still'
refused 'the name .?names-c.? is' xyl create -q "$scratch/names-b.cfg" 'name="names-c"'

# A name that xl changes while nobody watches.
pkill -9 -f "monitor .* $uuid"
ok xl rename names-c names-d
shows names-d || fail 'names-d is not found after the death of its watcher'
shows names-c && fail 'names-c is found after the death of its watcher'
refused 'the name .?names-d.? is' xyl create -q "$scratch/names-b.cfg" 'name="names-d"'

# What is gone is taken out.
make names-e
within 20 indexed names-e
ok xyl destroy names-e
gone() { ! shows names-e; }
within 10 gone
ok xyl destroy names-d
ok xyl destroy names-b
