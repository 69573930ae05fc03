# What every toolstack makes once and keeps, and so is no trace of a domain: for lab-query, whose head says what the signs mean.
kept_nodes=(/vm /libxl /libxl/pci /local/domain/0/device-model /local/domain/0/backend '/local/domain/0/backend/*'
	/local/domain/0/memory '/local/domain/0/memory/*'
	# Folders of drivers' errors; the error of a device goes with it.
	/local/domain/0/error /local/domain/0/error/backend '/local/domain/0/error/backend/*')
kept_files=('/var/lib/xen/dump/**' /var/lib/xyl/vm /var/lib/xyl/kept /run/xyl/busy /run/xyl/replies /run/xyl/vm /run/xyl/names /run/xyl/watch /run/xyl/doorbell /run/xyl/channel /run/xyl/qemu-features
	'/run/xyl/host-facts.*' '/run/xyl/policy-warnings.*')
