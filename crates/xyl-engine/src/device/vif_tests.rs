//! Network interfaces in libxl's record, interfaces with another script, and bridges that cannot be used.

use os_port::mem::{Life, MemLinks};
use xen_sim::model::Model;
use xenstore::Tree;
use xenstore::mem::MemStore;

use super::*;
use crate::vm::paths::node;
use crate::{Dirs, ErrorCode};

const DOMID: DomId = DomId(7);
const COPY_FOLDER: &str = "/libxl/7/device/vif/0";

/// A host with an interface that xl has made, and a bridge `xenbr0`.
fn bench() -> (Host, MemLinks) {
    let store = MemStore::new().client(0).unwrap();
    let dirs = Dirs::below(std::path::Path::new("/nowhere"));
    let mut host = Host::new(Box::new(Model::new(64)), store, dirs);
    let links = MemLinks::default();
    links.add(&LinkName::parse("xenbr0").unwrap(), Some("bridge"));
    host.devices.links = std::rc::Rc::new(links.of(&Life::new(0)));
    for (name, value) in [
        ("backend", "/local/domain/0/backend/vif/7/0"),
        ("script", "/etc/xen/scripts/vif-bridge"),
    ] {
        let path = node(&format!("{COPY_FOLDER}/{name}")).unwrap();
        host.store.write(&path, value.as_bytes()).unwrap();
    }
    (host, links)
}

fn bridge(name: &str) -> SetUp {
    SetUp::Bridge(LinkName::parse(name).unwrap())
}

/// The interface of [`nic`] with a script.
fn scripted() -> Nic {
    Nic {
        set_up: SetUp::Script(nic::Script {
            path: "/etc/xen/scripts/vif-openvswitch".to_owned(),
            bridge: "ovsbr0.100:200".to_owned(),
            vlan: Some("10p/20".to_owned()),
        }),
        ..nic()
    }
}

fn nic() -> Nic {
    Nic {
        devid: 3,
        mac: Mac([0, 0x16, 0x3e, 1, 2, 3]),
        set_up: bridge("xenbr0"),
        name: Some(LinkName::parse("web").unwrap()),
        ip: Some("10.0.0.1 10.0.0.2".to_owned()),
        gateway_dev: Some(LinkName::parse("eth0").unwrap()),
        rate: Some(Rate {
            bytes_per_interval: 62_500,
            interval_us: 50_000,
        }),
        mtu_bytes: Some(9000),
        trusted: Some(false),
        backend: None,
        card: Card::NoMachine,
    }
}

/// libxl refuses a record with a member of another type.
#[test]
fn each_member_has_the_type_of_libxls_idl() {
    let entry = to_json(&scripted());
    let members = entry.as_object().unwrap();
    assert_eq!(members.len(), 13);
    for (name, value) in members {
        let is_right = match name.as_str() {
            "devid" | "mtu" | "rate_bytes_per_interval" | "rate_interval_usecs" => value.is_u64(),
            "trusted" => matches!(value.as_str(), Some("True" | "False")),
            "mac" | "bridge" | "script" | "nictype" | "ifname" | "ip" | "gatewaydev" | "vlan" => {
                value.is_string()
            }
            _ => false,
        };
        assert!(is_right, "{name}: {value}");
    }
}

#[test]
fn what_was_written_for_xl_is_read_back_as_it_was() {
    let elsewhere = Nic {
        backend: Some("net".to_owned()),
        trusted: Some(true),
        ..nic()
    };
    for nic in [nic(), scripted(), elsewhere] {
        assert_eq!(cfg_of_json(&to_json(&nic)), Some(nic.cfg_text()));
    }
    let of_xl = json!({
        "devid": 0, "mac": "00:16:3e:11:22:33", "bridge": "xenbr0", "mtu": 1500, "model": "rtl8139",
        "script": "/usr/local/etc/xen/scripts/vif-bridge", "nictype": "vif", "trusted": "True",
        "ip": null, "backend_domid": 0,
    });
    let text = cfg_of_json(&of_xl);
    let wanted = "devid=0,mac=00:16:3e:11:22:33,bridge=xenbr0,type=vif";
    assert_eq!(text.as_deref(), Some(wanted));
    let of_xl = json!({
        "devid": 0, "mac": "00:16:3e:11:22:33", "script": "vif-route", "ip": "10.0.0.1",
    });
    let text = cfg_of_json(&of_xl);
    let wanted = "devid=0,mac=00:16:3e:11:22:33,script=/etc/xen/scripts/vif-route,ip=10.0.0.1";
    assert_eq!(text.as_deref(), Some(wanted));
    let of_xl = json!({
        "devid": 0, "mac": "00:16:3e:11:22:33", "nictype": "vif", "backend_domid": 3, "trusted": "True",
    });
    let wanted = "devid=0,mac=00:16:3e:11:22:33,backend=3,trusted";
    assert_eq!(cfg_of_json(&of_xl).as_deref(), Some(wanted));
    let short = json!({ "devid": 0, "mac": "00:16:3e:11:22:33", "nictype": "vif" });
    let wanted = "devid=0,mac=00:16:3e:11:22:33";
    assert_eq!(cfg_of_json(&short).as_deref(), Some(wanted));
}

#[test]
fn what_xyl_does_not_serve_is_not_taken_from_a_record() {
    for (member, value) in [
        ("script", json!("../vif-route")),
        ("nictype", json!("vif_ioemu")),
        ("backend_domname", json!(3)),
        ("vlan", json!("10p")),
        ("mac", json!("x")),
        ("bridge", json!("a/b")),
        ("coloft_forwarddev", json!("eth0")),
        ("rate_interval_usecs", json!(0)),
    ] {
        let mut entry = to_json(&nic());
        entry[member] = value;
        assert_eq!(cfg_of_json(&entry), None, "{member}");
    }
}

#[test]
fn an_interface_of_the_record_counts_if_the_toolstacks_copy_has_it() {
    let (mut host, _) = bench();
    let mut record = json!({ "nics": [{ "devid": 0 }, { "devid": 1 }] });
    crate::device::drop_detached(&mut host, DOMID, &mut record).unwrap();
    assert_eq!(record, json!({ "nics": [{ "devid": 0 }] }));
}

#[test]
fn an_interface_that_qemu_has_a_part_of_is_not_xyls() {
    let (mut host, _) = bench();
    let mut put = |name: &str, value: &str| {
        let path = node(&format!("{COPY_FOLDER}/{name}")).unwrap();
        host.store.write(&path, value.as_bytes()).unwrap();
        Vif.foreign(&mut host, DOMID, "0").unwrap()
    };
    assert!(!put("type", "vif_ioemu"));
    assert!(put("script", "/etc/xen/scripts/vif-route"));
    assert!(!put("type", "vif"));
    assert!(Vif.foreign(&mut host, DOMID, "1").unwrap());
}

#[test]
fn a_script_that_takes_an_interface_down_is_one_that_xyl_does_not_replace() {
    let (mut host, _) = bench();
    let backend = node("/local/domain/0/backend/vif/7/0/state").unwrap();
    host.store.write(&backend, b"4").unwrap();
    assert!(!Vif.runs_scripts(&mut host, DOMID).unwrap());
    let script = node(&format!("{COPY_FOLDER}/script")).unwrap();
    host.store.write(&script, b"/opt/vif-own").unwrap();
    assert!(Vif.runs_scripts(&mut host, DOMID).unwrap());
}

#[test]
fn an_interface_that_xl_has_attached_anew_keeps_what_its_script_has_set_up() {
    let (mut host, _) = bench();
    let told = std::rc::Rc::new(std::cell::Cell::new(0));
    let counted = told.clone();
    // The script is not there, which is told.
    host.notice = std::rc::Rc::new(move |_| counted.set(counted.get() + 1));
    let deadline = host.clock.now() + Duration::from_secs(60);
    for (online, nr_told) in [("1", 0), ("0", 1)] {
        for (path, value) in [
            (format!("{COPY_FOLDER}/script"), "/opt/vif-own"),
            ("/local/domain/0/backend/vif/7/0/state".to_owned(), "6"),
            ("/local/domain/0/backend/vif/7/0/online".to_owned(), online),
        ] {
            host.store
                .write(&node(&path).unwrap(), value.as_bytes())
                .unwrap();
        }
        let device = bus::device_of(&mut host, DOMID, KIND, "0").unwrap();
        Vif.take_away(&mut host, &device.unwrap(), deadline)
            .unwrap();
        assert_eq!(told.get(), nr_told, "{online}");
    }
    assert_eq!(bus::numbers(&mut host, DOMID, KIND).unwrap().len(), 0);
}

#[test]
fn a_bridge_and_a_free_name_are_looked_for() {
    let (host, links) = bench();
    let look = check;
    look(&host, &nic()).unwrap();
    let taken = links.add(&LinkName::parse("web").unwrap(), None);
    let error = look(&host, &nic()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Network);
    links.remove(taken);
    for name in ["none", "eth0"] {
        links.add(&LinkName::parse("eth0").unwrap(), Some("dummy"));
        let nic = Nic {
            set_up: bridge(name),
            ..nic()
        };
        let error = look(&host, &nic).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Network);
    }
}
