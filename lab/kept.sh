# What every toolstack makes once and keeps, and so is no trace of a domain: for lab-query, whose head says what the signs mean.
kept_nodes=(/vm /libxl /tool/xyl /tool/xyl/told /local/domain/0/backend '/local/domain/0/backend/*'
	/local/domain/0/memory '/local/domain/0/memory/*')
kept_files=('/var/lib/xen/dump/**' /var/lib/xyl/vm /var/lib/xyl/kept /run/xyl/busy /run/xyl/vm /run/xyl/names /run/xyl/watch
	'/run/xyl/host-facts.*' '/run/xyl/told.*')
