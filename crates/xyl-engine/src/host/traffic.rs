//! Counters of the disks and network interfaces that domain 0's kernel serves to guests.
//!
//! `xyl metrics` reads them. Disks that QEMU serves have no counters here.
//!
//! Facts: `statistics` of blkback (`drivers/block/xen-blkback/xenbus.c`), in requests and sectors of 512 bytes; `statistics` of a
//! network interface (`Documentation/ABI/testing/sysfs-class-net-statistics`).

use std::path::Path;

use xen_port::DomId;

use crate::host::dom0::Kernel;

/// Folder of all devices that backends of domain 0's kernel serve.
const SERVED: &str = "/sys/bus/xen-backend/devices";
/// Size of a sector, in bytes.
const SECTOR_BYTES: u64 = 512;

/// Counters of a disk since its backend has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskCounters {
    /// The guest's domain.
    pub domid: DomId,
    /// Number of the disk, such as 51712 for `xvda`.
    pub number: u32,
    /// Number of read requests.
    pub nr_reads: u64,
    /// Number of write requests.
    pub nr_writes: u64,
    /// Number of flush requests.
    pub nr_flushes: u64,
    /// Number of discard requests.
    pub nr_discards: u64,
    /// Number of bytes read.
    pub read_bytes: u64,
    /// Number of bytes written.
    pub written_bytes: u64,
}

/// Counters of one direction of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Bytes of all packets.
    pub size_bytes: u64,
    /// Number of packets.
    pub nr_packets: u64,
    /// Packets that were dropped.
    pub nr_dropped: u64,
}

/// Counters of a network interface since its backend has it, as the guest sees the directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicCounters {
    /// The guest's domain.
    pub domid: DomId,
    /// Number of the interface.
    pub number: u32,
    /// The packets that the guest has received.
    pub received: Direction,
    /// The packets that the guest has sent.
    pub sent: Direction,
}

/// The disks that blkback serves, in order. One that goes meanwhile is left out.
pub fn disks(kernel: &Kernel) -> Vec<DiskCounters> {
    let names = kernel.names(Path::new(SERVED));
    let disks = names.iter().filter_map(|name| disk(kernel, name));
    let mut disks: Vec<DiskCounters> = disks.collect();
    disks.sort_unstable_by_key(|disk| (disk.domid, disk.number));
    disks
}

fn disk(kernel: &Kernel, name: &str) -> Option<DiskCounters> {
    let (domid, number) = device(name, "vbd")?;
    let folder = Path::new(SERVED).join(name).join("statistics");
    let count = |file: &str| number_in(kernel, &folder.join(file));
    Some(DiskCounters {
        domid,
        number,
        nr_reads: count("rd_req")?,
        nr_writes: count("wr_req")?,
        nr_flushes: count("f_req")?,
        nr_discards: count("ds_req")?,
        read_bytes: count("rd_sect")?.saturating_mul(SECTOR_BYTES),
        written_bytes: count("wr_sect")?.saturating_mul(SECTOR_BYTES),
    })
}

/// The interfaces that netback serves, in order. One that goes meanwhile is left out.
pub fn nics(kernel: &Kernel) -> Vec<NicCounters> {
    let names = kernel.guest_interfaces();
    let nics = names.iter().filter_map(|name| nic(kernel, name));
    let mut nics: Vec<NicCounters> = nics.collect();
    nics.sort_unstable_by_key(|nic| (nic.domid, nic.number));
    nics
}

fn nic(kernel: &Kernel, name: &str) -> Option<NicCounters> {
    let (domid, number) = device(&kernel.netback_device(name)?, "vif")?;
    let folder = kernel.interface(name).join("statistics");
    let direction = |letters: &str| {
        let count = |what: &str| number_in(kernel, &folder.join(format!("{letters}_{what}")));
        Some(Direction {
            size_bytes: count("bytes")?,
            nr_packets: count("packets")?,
            nr_dropped: count("dropped")?,
        })
    };
    Some(NicCounters {
        domid,
        number,
        // What domain 0's end sends, the guest receives.
        received: direction("tx")?,
        sent: direction("rx")?,
    })
}

/// Domain and number of a device such as `vbd-3-51712`.
fn device(name: &str, kind: &str) -> Option<(DomId, u32)> {
    let id = name.strip_prefix(kind)?.strip_prefix('-')?;
    let (domid, number) = id.split_once('-')?;
    Some((DomId(domid.parse().ok()?), number.parse().ok()?))
}

fn number_in(kernel: &Kernel, path: &Path) -> Option<u64> {
    kernel.text(path).trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_devices_that_have_none_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, value: &str| {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, value).unwrap();
        };
        for (file, value) in [
            ("rd_req", "7"),
            ("wr_req", "5"),
            ("f_req", "2"),
            ("ds_req", "1"),
            ("rd_sect", "16"),
            ("wr_sect", "8"),
        ] {
            let folder = format!("{SERVED}/vbd-3-51712/statistics");
            write(&format!("{folder}/{file}"), &format!("{value}\n"));
        }
        write(&format!("{SERVED}/vbd-4-51712/state"), "4");
        write(&format!("{SERVED}/vif-3-0/state"), "4");
        let kernel = Kernel::below(root.path());
        assert_eq!(
            disks(&kernel),
            [DiskCounters {
                domid: DomId(3),
                number: 51712,
                nr_reads: 7,
                nr_writes: 5,
                nr_flushes: 2,
                nr_discards: 1,
                read_bytes: 8192,
                written_bytes: 4096,
            }]
        );
        assert_eq!(nics(&kernel), []);

        // An interface of any name, known by its device. Its directions are the guest's.
        let net = root.path().join("sys/class/net/uplink");
        std::fs::create_dir_all(net.join("statistics")).unwrap();
        let on_bus = root.path().join("sys/devices/vif-3-0");
        std::fs::create_dir_all(&on_bus).unwrap();
        std::os::unix::fs::symlink("/sys/bus/xen-backend", on_bus.join("subsystem")).unwrap();
        std::os::unix::fs::symlink(&on_bus, net.join("device")).unwrap();
        for (file, value) in [
            ("rx_bytes", "100"),
            ("rx_packets", "10"),
            ("rx_dropped", "1"),
            ("tx_bytes", "200"),
            ("tx_packets", "20"),
            ("tx_dropped", "2"),
        ] {
            std::fs::write(net.join("statistics").join(file), value).unwrap();
        }
        let direction = |size_bytes, nr_packets, nr_dropped| Direction {
            size_bytes,
            nr_packets,
            nr_dropped,
        };
        assert_eq!(
            nics(&kernel),
            [NicCounters {
                domid: DomId(3),
                number: 0,
                received: direction(200, 20, 2),
                sent: direction(100, 10, 1),
            }]
        );
    }
}
