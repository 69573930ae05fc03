//! Virtual USB controllers, and the host's USB devices behind them.

use serde::{Deserialize, Serialize};

use super::params::split;
use crate::diag::{Code, Remedy};
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::syntax::Text;

keywords! {
    /// The backend of a USB controller.
    UsbControllerType {
        /// The toolstack chooses the backend.
        Auto = "auto",
        /// The host's kernel, paravirtually.
        Pv = "pv",
        /// The device model, emulated.
        DeviceModel = "devicemodel",
        /// QEMU as a paravirtual backend.
        Qusb = "qusb",
    }
}

/// One USB controller (`usbctrl`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsbController {
    /// The backend of the controller.
    pub controller_type: UsbControllerType,
    /// USB version 1, 2 or 3. Default 2.
    pub version: u32,
    /// Number of ports, 1 to 31. Default 8.
    pub ports: u32,
}

/// One host USB device (`usbdev`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsbDevice {
    /// Bus on the host.
    pub host_bus: u32,
    /// Address on the bus.
    pub host_address: u32,
    /// The controller; `None`: whichever has a free port.
    pub controller: Option<u32>,
    /// The port on the controller, from 1.
    pub port: Option<u32>,
}

pub(crate) fn read_controllers(reader: &mut Reader<'_>) -> Vec<UsbController> {
    reader
        .texts("usbctrl")
        .into_iter()
        .map(|text| read_controller(reader, text))
        .collect()
}

fn read_controller(reader: &mut Reader<'_>, text: Text<'_>) -> UsbController {
    let mut controller = UsbController {
        controller_type: UsbControllerType::Auto,
        version: 2,
        ports: 8,
    };
    for param in split(text) {
        match param.name.text {
            "type" => {
                controller.controller_type = param
                    .keyword_any_case(reader)
                    .unwrap_or(UsbControllerType::Auto)
            }
            "version" => {
                controller.version = param.u32(reader, "a USB version", 1..=3).unwrap_or(2)
            }
            "ports" => {
                controller.ports = param.u32(reader, "a number of ports", 1..=31).unwrap_or(8)
            }
            _ => param.unknown(reader, "usbctrl", ["type", "version", "ports"].into_iter()),
        }
    }
    controller
}

pub(crate) fn read_devices(reader: &mut Reader<'_>) -> Vec<UsbDevice> {
    reader
        .texts("usbdev")
        .into_iter()
        .filter_map(|text| read_device(reader, text))
        .collect()
}

fn read_device(reader: &mut Reader<'_>, text: Text<'_>) -> Option<UsbDevice> {
    let mut device = UsbDevice::default();
    let (mut bus, mut address) = (None, None);
    for param in split(text) {
        match param.name.text {
            "type"
                if param
                    .value
                    .is_some_and(|value| value.text.eq_ignore_ascii_case("hostdev")) => {}
            "type" => {
                let help = "write `type=hostdev`";
                reader.error(
                    Code::BadValue,
                    param.name.span(),
                    "the type of a USB device can only be `hostdev`",
                    Remedy::new(help, param.replaced("type=hostdev")),
                );
            }
            "hostbus" => bus = param.u32(reader, "a bus", 1..=255),
            "hostaddr" => address = param.u32(reader, "an address on the bus", 1..=255),
            "controller" => {
                device.controller =
                    param.u32(reader, "a controller's number", 0..=i32::MAX.unsigned_abs())
            }
            "port" => device.port = param.u32(reader, "a port", 1..=31),
            _ => param.unknown(
                reader,
                "usbdev",
                ["type", "hostbus", "hostaddr", "controller", "port"].into_iter(),
            ),
        }
    }
    let (Some(host_bus), Some(host_address)) = (bus, address) else {
        let help = "say which by its numbers, as in `hostbus=1,hostaddr=3`; lsusb shows them";
        reader.error(
            Code::Missing,
            text.whole_if_all(),
            "this does not say which host device",
            help,
        );
        return None;
    };
    if device.port.is_some() && device.controller.is_none() {
        let help = "give the controller's number besides, as in `controller=0`";
        reader.error(
            Code::Missing,
            text.whole_if_all(),
            "a USB port without its controller",
            help,
        );
    }
    Some(UsbDevice {
        host_bus,
        host_address,
        ..device
    })
}
