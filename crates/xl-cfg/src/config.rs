//! Builds a checked [`Config`] from a configuration text and the overrides of a command line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::diag::{Code, Diagnostic, Diags, Report};
use crate::keys::{self, DomainType, KeyClass, KeyInfo};
use crate::reader::Reader;
use crate::settings::{Setting, Settings};
use crate::source::{Location, Source, SourceError, Sources, Span};
use crate::syntax::{self, Node, Value};
use crate::types;
use crate::types::{
    Actions, Boot, DeviceModel, Disk, Display, Hardware, Hvm, Limits, Memory, NameRule, PciDevice,
    Platform, Processors, PvDevices, Time, UsbController, UsbDevice, Vif,
};

/// A domain's configuration after the checks, with the defaults that xl itself fills in.
///
/// `None` means that the setting is not given. Then the default of the engine, of Xen or of the host applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainConfig {
    /// Name of the VM.
    pub name: String,
    /// The VM's UUID; `None` asks for a new one.
    pub uuid: Option<Uuid>,
    /// The guest's type.
    #[serde(rename = "type")]
    pub domain_type: DomainType,
    /// Privileges, passthrough and security label.
    pub platform: Platform,
    /// Number, affinity and features of its vCPUs.
    pub processors: Processors,
    /// Size and layout of its memory.
    pub memory: Memory,
    /// Kernel, ramdisk, command line and bootloader.
    pub boot: Boot,
    /// Actions after the guest has stopped.
    pub actions: Actions,
    /// Settings of its clocks and timers.
    pub time: Time,
    /// Limits on its use of Xen's and xenstore's resources.
    pub limits: Limits,
    /// Virtual disks, in the order of the configuration.
    pub disks: Vec<Disk>,
    /// Virtual network interfaces, in the order of the configuration.
    pub vifs: Vec<Vif>,
    /// Host PCI devices passed through.
    pub pci: Vec<PciDevice>,
    /// Other paravirtual devices.
    pub pv_devices: PvDevices,
    /// Its virtual USB controllers.
    pub usb_controllers: Vec<UsbController>,
    /// Host USB devices passed through.
    pub usb_devices: Vec<UsbDevice>,
    /// Outputs of the display: VNC and SDL outside `vfb`.
    pub display: Display,
    /// Paravirtual framebuffers (`vfb`).
    pub framebuffers: Vec<Display>,
    /// Host hardware that it may touch.
    pub hardware: Hardware,
    /// The device model.
    pub device_model: DeviceModel,
    /// The emulated machine, for HVM guests.
    pub hvm: Option<Hvm>,
    /// Every setting as it was given, by name: those without a typed form too.
    pub raw: BTreeMap<String, Value>,
}

/// A setting that a configuration has.
#[derive(Debug, Clone, Copy)]
pub struct SetKey<'a> {
    /// Name of the setting.
    pub name: &'a str,
    /// Importance of the setting.
    pub class: KeyClass,
    /// The facts about the setting; `None` if it is not known.
    pub info: Option<&'static KeyInfo>,
    /// The place of the name.
    pub span: Span,
    /// The value with its place.
    pub value: &'a Node,
}

/// An accepted configuration, with the places of its settings and its warnings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The typed configuration of the domain.
    pub domain: DomainConfig,
    settings: Settings,
    report: Report,
}

impl Config {
    /// Place of a setting's name; `None` if it is not set.
    #[must_use]
    pub fn span_of(&self, key: &str) -> Option<Span> {
        self.settings.get(key).map(|setting| setting.key_span)
    }

    /// Place of a setting's name, as file, line and column.
    #[must_use]
    pub fn location_of(&self, key: &str) -> Option<Location> {
        self.span_of(key).map(|span| self.sources().locate(span))
    }

    /// Place of a setting's value, as file, line and column; `None` if it is not set.
    #[must_use]
    pub fn location_of_value(&self, key: &str) -> Option<Location> {
        let setting = self.settings.get(key)?;
        Some(self.sources().locate(setting.value.span))
    }

    /// Whether a setting is set.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        self.settings.get(key).is_some()
    }

    /// All settings, in the order of their places.
    pub fn set_keys(&self) -> impl Iterator<Item = SetKey<'_>> {
        set_keys(&self.settings)
    }

    /// Warns of every setting for which `why` has an answer: `"... has no effect"`.
    #[must_use]
    pub fn warn_of_keys(
        mut self,
        why: impl Fn(&SetKey<'_>, &DomainConfig) -> Option<String>,
    ) -> Self {
        let found = find_keys(&self.settings, &self.domain, &why);
        for (span, message) in found {
            let warning = Diagnostic::warning(Code::NoEffect, span, message);
            self.report.push(warning);
        }
        self
    }

    /// Refuses a setting's value: `"a guest of this type has at most ..."`.
    #[must_use]
    pub fn refuse_value(mut self, key: &str, message: impl Into<String>) -> Rejected {
        let span = self.settings.get(key).map(|setting| setting.value.span);
        self.report
            .push(Diagnostic::error(Code::OutOfRange, span, message));
        Rejected(self.report)
    }

    /// The warnings about the configuration.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The texts that the configuration was made from.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        self.report.sources()
    }

    /// Refuses every setting for which `why` returns a reason, such as `"disks are not supported yet"`. The earlier
    /// warnings stay in the report.
    ///
    /// # Errors
    /// [`Rejected`] if `why` returned a reason.
    pub fn refuse_keys(
        mut self,
        why: impl Fn(&SetKey<'_>, &DomainConfig) -> Option<String>,
    ) -> Result<Self, Rejected> {
        let refused = find_keys(&self.settings, &self.domain, &why);
        if refused.is_empty() {
            return Ok(self);
        }
        for (span, message) in refused {
            self.report
                .push(Diagnostic::error(Code::Unsupported, span, message));
        }
        Err(Rejected(self.report))
    }
}

fn set_keys(settings: &Settings) -> impl Iterator<Item = SetKey<'_>> {
    settings.in_order().into_iter().map(
        |Setting {
             key,
             key_span,
             value,
             ..
         }| SetKey {
            name: key,
            class: keys::class_of(key),
            info: keys::lookup(key),
            span: *key_span,
            value,
        },
    )
}

/// The settings for which `why` has an answer: the places of their names, and the answers.
fn find_keys(
    settings: &Settings,
    domain: &DomainConfig,
    why: &impl Fn(&SetKey<'_>, &DomainConfig) -> Option<String>,
) -> Vec<(Span, String)> {
    set_keys(settings)
        .filter_map(|key| Some((key.span, why(&key, domain)?)))
        .collect()
}

/// A configuration that was refused. `Display` renders the report.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Rejected(pub Report);

/// The reasons why there is no configuration.
#[derive(Debug, Error)]
pub enum Error {
    /// The text could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The text is wrong.
    #[error(transparent)]
    Rejected(#[from] Rejected),
}

impl Error {
    /// The diagnostics, if the text was at fault.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Source(_) => None,
            Self::Rejected(Rejected(report)) => Some(report),
        }
    }
}

/// Reads a configuration file. `overrides` are the `name=value` arguments of the command line. They follow the file's
/// text, one on each line. Each may contain several settings separated by `;`.
///
/// # Errors
/// [`enum@Error`]: the file cannot be read, or the configuration is refused.
pub fn read_file<S: AsRef<str>>(path: &std::path::Path, overrides: &[S]) -> Result<Config, Error> {
    parse(Source::read_file(path)?, overrides)
}

/// Parses and checks a configuration. `overrides` as for [`read_file`].
///
/// # Errors
/// [`Error::Rejected`] with every error found, or [`Error::Source`] if the overrides are too large.
pub fn parse<S: AsRef<str>>(source: Source, overrides: &[S]) -> Result<Config, Error> {
    parse_refusing(source, overrides, NameRule::Strict, |_, _| None)
}

/// Parses the record of an existing VM. Its name need not be allowed for new VMs.
///
/// # Errors
/// As [`parse`].
pub fn parse_record(source: Source) -> Result<Config, Error> {
    parse_refusing::<&str>(source, &[], NameRule::Any, |_, _| None)
}

/// Like [`parse`], with a rule for the name. The refusals of [`Config::refuse_keys`] are among the errors, so that
/// one report has all.
///
/// # Errors
/// As [`parse`].
pub fn parse_refusing<S: AsRef<str>>(
    source: Source,
    overrides: &[S],
    names: NameRule,
    why: impl Fn(&SetKey<'_>, &DomainConfig) -> Option<String>,
) -> Result<Config, Error> {
    let overrides = Source::from_overrides(overrides)?;
    let mut diags = Diags::default();
    let mut settings = Settings::default();
    if let Some(complaint) = source.complaint_of_form() {
        diags.push(complaint);
        return Err(Rejected(diags.into_report(Sources::new(vec![source]))).into());
    }
    let sources = vec![source, overrides];
    for (source, index) in sources.iter().zip(0..) {
        let statements = syntax::parse(source, index, &mut diags);
        settings.apply(statements, source, &mut diags);
    }
    let domain = build(&settings, names, &mut diags);
    for (span, message) in find_keys(&settings, &domain, &why) {
        diags.push(Diagnostic::error(Code::Unsupported, span, message));
    }
    let report = diags
        .into_report(Sources::new(sources))
        .with_statements(settings.places());
    if report.has_errors() {
        return Err(Rejected(report).into());
    }
    Ok(Config {
        domain,
        settings,
        report,
    })
}

/// Parses a text as one value. For tests and tools; a configuration is parsed with [`parse`].
///
/// # Errors
/// [`enum@Error`] as for [`parse`].
pub fn parse_value(text: &str) -> Result<Value, Error> {
    let source = Source::from_bytes("<value>", format!("value={text}").as_bytes())?;
    let mut diags = Diags::default();
    let statements = syntax::parse(&source, 0, &mut diags);
    match statements.as_slice() {
        [statement] if !diags.has_errors() => Ok(statement.value.to_value()),
        _ => Err(Rejected(diags.into_report(Sources::new(vec![source]))).into()),
    }
}

/// Builds the configuration as far as it can be read. Errors go to `diags`, a missing name too.
fn build(settings: &Settings, names: NameRule, diags: &mut Diags) -> DomainConfig {
    // A wrong statement may have set a missing value, so nothing counts as missing.
    let complete = !diags.has_errors();
    let mut reader = Reader::new(settings, diags);
    let given_type = types::read_type(&mut reader);
    keys::check(settings, given_type, reader.diags);
    let domain_type = given_type.unwrap_or(DomainType::Pv);
    let name = types::read_name(&mut reader, names);
    let boot = Boot::read(&mut reader, domain_type);
    if complete {
        check_name_given(settings, reader.diags);
        boot.check_complete(domain_type, &mut reader);
    }
    let vnuma = types::read_vnuma(&mut reader);
    let hvm =
        (domain_type == DomainType::Hvm).then(|| Hvm::read(&mut reader, boot.firmware.as_deref()));
    let mut domain = DomainConfig {
        name: name.unwrap_or_default(),
        uuid: types::read_uuid(&mut reader),
        domain_type,
        platform: Platform::read(&mut reader),
        processors: Processors::read(&mut reader, domain_type, &vnuma),
        memory: Memory::read(&mut reader, vnuma),
        boot,
        actions: Actions::read(&mut reader),
        time: Time::read(&mut reader, domain_type),
        limits: Limits::read(&mut reader),
        disks: Disk::read_all(&mut reader),
        vifs: Vif::read_all(&mut reader),
        pci: types::read_pci(&mut reader),
        pv_devices: PvDevices::read(&mut reader),
        usb_controllers: types::read_usb_controllers(&mut reader),
        usb_devices: types::read_usb_devices(&mut reader),
        display: Display::read(&mut reader),
        framebuffers: types::read_framebuffers(&mut reader),
        hardware: Hardware::read(&mut reader),
        device_model: DeviceModel::read(&mut reader, domain_type),
        hvm,
        raw: settings
            .in_order()
            .iter()
            .map(|setting| (setting.key.clone(), setting.value.to_value()))
            .collect(),
    };
    domain.fill_in_pv();
    settings.complain_of_bare_negatives(diags);
    domain
}

impl DomainConfig {
    /// Applies xl's special meanings of settings for PV guests.
    fn fill_in_pv(&mut self) {
        if self.domain_type != DomainType::Pv {
            return;
        }
        // VNC settings outside `vfb` request a framebuffer.
        if self.framebuffers.is_empty() && self.display.vnc.enabled == Some(true) {
            self.framebuffers.push(self.display.clone());
        }
        // A guest with passed-through devices needs the host's memory map with its holes.
        if !self.pci.is_empty() {
            self.platform.e820_host = Some(true);
        }
    }
}

fn check_name_given(settings: &Settings, diags: &mut Diags) {
    if settings.get("name").is_none() {
        let message = "the domain has no name";
        let help = "give it one, as in `name = \"guest\"`";
        diags.push(Diagnostic::error(Code::Missing, None, message).help(help));
    }
}
