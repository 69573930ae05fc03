//! The typed configuration. Each module has the settings of one subject.

mod actions;
mod boot;
mod cpuid;
mod cpuid_bits;
mod cpuid_features;
mod cpulist;
mod device_model;
mod disk;
mod disk_draft;
mod disk_lexer;
mod display;
mod hardware;
mod hvm;
mod hvm_words;
mod identity;
mod limits;
mod memory;
mod name;
mod params;
mod pci;
mod platform;
mod processors;
mod pvdevices;
mod rate;
mod time;
mod usb;
mod vdev;
mod vif;
mod viridian;
mod vnuma;

pub use actions::{Action, Actions};
pub use boot::{Boot, PvShim};
pub use cpuid::{BitPolicy, Cpuid, CpuidFlag, CpuidLeaf};
pub use cpuid_bits::{CpuidBits, CpuidTarget};
pub use cpulist::{Affinity, CpuList, CpuListError, CpuRange, CpuStep};
pub use device_model::{DeviceModel, DeviceModelVersion, Stubdomain};
pub use disk::{Disk, DiskBackend, DiskColo, DiskFormat, DiskSpecification};
pub use display::{Display, Sdl, Secret, Spice, Vnc};
pub use hardware::{Hardware, MemoryRange, PortRange};
pub use hvm::{Hvm, HvmSwitches, ViridianSet};
pub use hvm_words::{
    Bios, DiskController, GraphicsPassthrough, SmbiosField, VendorDevice, Vga, Viridian,
};
pub use limits::Limits;
pub use memory::Memory;
pub use name::{BadName, MAX_NAME_BYTES, NameRule, VmName};
pub use pci::{PciAddress, PciDevice, PciWhich, Rdm, RdmPolicy};
pub use platform::{Passthrough, Platform};
pub use processors::{Altp2m, Processors, Scheduling};
pub use pvdevices::{
    Channel, ChannelConnection, Keyboard, KeyboardBackend, P9, P9Type, Parameters, PvDevices, Vtpm,
};
pub use rate::Rate;
pub use time::{Time, TimerMode, TscMode};
pub use usb::{UsbController, UsbControllerType, UsbDevice};
pub use vdev::{Vdev, xvd_name};
pub use vif::{Mac, Vif, VifType};
pub use viridian::ViridianError;
pub use vnuma::VirtualNode;

pub(crate) use cpulist::read_list as read_cpu_list;
pub(crate) use display::read_framebuffers;
pub(crate) use identity::{read_name, read_type, read_uuid};
pub(crate) use pci::read as read_pci;
pub(crate) use usb::{read_controllers as read_usb_controllers, read_devices as read_usb_devices};
pub(crate) use vnuma::read as read_vnuma;
