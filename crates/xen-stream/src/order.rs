//! [`Order`], the states of a stream. Reader and writer ask it before each part.
//!
//! | state | what may come | next state |
//! |---|---|---|
//! | `FileHeader` | header of xl's file | `LibxlHeader` |
//! | `LibxlHeader` | header of the libxl stream | `LibxcContext` |
//! | `LibxcContext` | record LIBXC_CONTEXT | `ImageHeader` |
//! | `ImageHeader` | headers of the libxc stream | `Libxc` |
//! | `Libxc` | records of the libxc stream ([`LibxcOrder`]) | after END `Emulators`, or `Ended` without a libxl stream |
//! | `Emulators` | records about QEMU, of an HVM guest | after END `Ended` |
//! | `Ended` | nothing | |
//! | `Failed` | nothing: each call gives the first error again | |
//!
//! Each state goes to `Failed` with an error.

use std::collections::{BTreeMap, BTreeSet};

use crate::emulator::Emulator;
use crate::error::{Cause, StreamError};
use crate::fields::unique;
use crate::headers::{Guest, ImageHeader};
use crate::kinds::{LibxcKind, LibxlKind};
use crate::limits::Limits;
use crate::pages::{PFN_END, PageEntry, PageKind};
use crate::record::{P2mFrames, PvInfo, Record, VcpuPart, VcpuState};

/// The outermost layer of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A file of `xl save`, or the stream of `xl migrate`: file header, configuration, libxl stream.
    XlFile,
    /// A libxl stream, as libvirt has it behind its own header.
    Libxl,
    /// A libxc stream.
    Libxc,
}

/// State of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    FileHeader,
    LibxlHeader,
    LibxcContext,
    ImageHeader,
    Libxc,
    Emulators,
    Ended,
    Failed,
}

/// The states of a stream, with what they depend on.
#[derive(Debug)]
pub(crate) struct Order {
    state: State,
    /// The first error of the stream.
    error: Option<StreamError>,
    kind: StreamKind,
    limits: Limits,
    libxc: Option<LibxcOrder>,
    /// Records about QEMU that were there, and the emulator that each names.
    emulators: BTreeMap<LibxlKind, Emulator>,
}

impl Order {
    pub(crate) fn new(kind: StreamKind, limits: Limits) -> Order {
        Order {
            state: match kind {
                StreamKind::XlFile => State::FileHeader,
                StreamKind::Libxl => State::LibxlHeader,
                StreamKind::Libxc => State::ImageHeader,
            },
            error: None,
            kind,
            limits,
            libxc: None,
            emulators: BTreeMap::new(),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Ends the stream with an error. Returns the first error of the stream.
    pub(crate) fn fail(&mut self, error: StreamError) -> StreamError {
        self.state = State::Failed;
        self.error.get_or_insert(error).clone()
    }

    /// Goes from this state to the next one.
    pub(crate) fn pass(&mut self, from: State, to: State) -> Result<(), Cause> {
        if self.state != from {
            return Err(Cause::Misplaced);
        }
        self.state = to;
        Ok(())
    }

    pub(crate) fn pass_image_header(&mut self, header: &ImageHeader) -> Result<(), Cause> {
        self.pass(State::ImageHeader, State::Libxc)?;
        self.libxc = Some(LibxcOrder::new(*header, self.limits));
        Ok(())
    }

    /// The order inside of the libxc stream.
    pub(crate) fn libxc(&mut self) -> Result<&mut LibxcOrder, Cause> {
        match (&mut self.libxc, self.state) {
            (Some(libxc), State::Libxc) => Ok(libxc),
            _ => Err(Cause::Misplaced),
        }
    }

    /// Goes past a record of the libxc stream.
    pub(crate) fn pass_record(&mut self, record: &Record) -> Result<(), Cause> {
        self.libxc()?.pass(record)?;
        if *record == Record::End {
            self.state = match self.kind {
                StreamKind::Libxc => State::Ended,
                StreamKind::XlFile | StreamKind::Libxl => State::Emulators,
            };
        }
        Ok(())
    }

    /// Checks the type of a record of the libxl stream, before its body is read.
    pub(crate) fn admit_libxl(&self, kind: LibxlKind) -> Result<(), Cause> {
        match (self.state, kind) {
            (_, LibxlKind::CheckpointEnd | LibxlKind::CheckpointState) => Err(Cause::Checkpointed),
            (State::LibxcContext, LibxlKind::LibxcContext) => Ok(()),
            (State::LibxcContext, _) => Err(Cause::TooEarly {
                needs: LibxlKind::LibxcContext.name(),
            }),
            (State::Emulators, LibxlKind::LibxcContext) => Err(Cause::Repeated),
            (State::Emulators, LibxlKind::End) => Ok(()),
            (State::Emulators, _) => self.admit_emulator(kind),
            _ => Err(Cause::Misplaced),
        }
    }

    fn admit_emulator(&self, kind: LibxlKind) -> Result<(), Cause> {
        let guest = self.libxc.as_ref().map(|libxc| libxc.header.guest);
        match guest {
            Some(guest @ Guest::Pv) => Err(Cause::NotForGuest { guest }),
            _ if self.emulators.contains_key(&kind) => Err(Cause::Repeated),
            _ => Ok(()),
        }
    }

    /// Goes past the record LIBXC_CONTEXT.
    pub(crate) fn pass_libxc_context(&mut self) -> Result<(), Cause> {
        self.admit_libxl(LibxlKind::LibxcContext)?;
        self.state = State::ImageHeader;
        Ok(())
    }

    /// Goes past a record about QEMU. A guest has one emulator.
    pub(crate) fn pass_emulator(
        &mut self,
        kind: LibxlKind,
        emulator: Emulator,
    ) -> Result<(), Cause> {
        self.admit_libxl(kind)?;
        if self.emulators.values().any(|other| *other != emulator) {
            return Err(Cause::OtherEmulator);
        }
        self.emulators.insert(kind, emulator);
        Ok(())
    }

    /// Goes past the end of the libxl stream.
    pub(crate) fn pass_libxl_end(&mut self) -> Result<(), Cause> {
        self.admit_libxl(LibxlKind::End)?;
        self.state = State::Ended;
        Ok(())
    }
}

/// The order of the records of a libxc stream, and what its records must agree on.
///
/// The static data come first: X86_PV_INFO, the policies, STATIC_DATA_END (version 3). Then come X86_PV_P2M_FRAMES (PV), pages, and
/// the state: SHARED_INFO and vCPUs (PV), or HVM_CONTEXT and HVM_PARAMS in any order. TSC_INFO may be anywhere behind the static
/// data, since converted streams have it before the pages.
#[derive(Debug)]
pub(crate) struct LibxcOrder {
    header: ImageHeader,
    limits: Limits,
    seen: BTreeSet<LibxcKind>,
    vcpu_records: BTreeSet<(VcpuPart, u32)>,
    /// Whether vCPU 0 of a PV guest has registers.
    has_vcpu_0: bool,
    pv: Option<PvInfo>,
    /// First page frame number that is too large.
    pfn_end: u64,
}

/// Records of the state of a guest, which come after all pages.
const STATE: [LibxcKind; 7] = [
    LibxcKind::SharedInfo,
    LibxcKind::VcpuBasic,
    LibxcKind::VcpuExtended,
    LibxcKind::VcpuXsave,
    LibxcKind::VcpuMsrs,
    LibxcKind::HvmContext,
    LibxcKind::HvmParams,
];
/// Records that may be there more than once.
const REPEATED: [LibxcKind; 5] = [
    LibxcKind::PageData,
    LibxcKind::VcpuBasic,
    LibxcKind::VcpuExtended,
    LibxcKind::VcpuXsave,
    LibxcKind::VcpuMsrs,
];

impl LibxcOrder {
    fn new(header: ImageHeader, limits: Limits) -> LibxcOrder {
        LibxcOrder {
            header,
            limits,
            seen: BTreeSet::new(),
            vcpu_records: BTreeSet::new(),
            has_vcpu_0: false,
            pv: None,
            pfn_end: match header.guest {
                // X86_PV_P2M_FRAMES says it.
                Guest::Pv => 0,
                Guest::Hvm => limits.pfn_end.min(PFN_END),
            },
        }
    }

    /// Whether pages that come now are to be compared.
    pub(crate) fn is_verified(&self) -> bool {
        self.seen.contains(&LibxcKind::Verify)
    }

    /// Checks the type of a record, before its body is read.
    pub(crate) fn admit(&self, kind: LibxcKind) -> Result<(), Cause> {
        self.admit_support(kind)?;
        if self.seen.contains(&kind) && !REPEATED.contains(&kind) {
            return Err(Cause::Repeated);
        }
        self.admit_place(kind)
    }

    /// Checks whether such a stream can have such a record at all.
    fn admit_support(&self, kind: LibxcKind) -> Result<(), Cause> {
        let ImageHeader { version, guest, .. } = self.header;
        match kind {
            LibxcKind::Toolstack => Err(Cause::Obsolete),
            LibxcKind::Checkpoint | LibxcKind::CheckpointDirtyPfns => Err(Cause::Checkpointed),
            LibxcKind::HvmContext | LibxcKind::HvmParams if guest == Guest::Pv => {
                Err(Cause::NotForGuest { guest })
            }
            LibxcKind::PvInfo
            | LibxcKind::P2mFrames
            | LibxcKind::SharedInfo
            | LibxcKind::VcpuBasic
            | LibxcKind::VcpuExtended
            | LibxcKind::VcpuXsave
            | LibxcKind::VcpuMsrs
                if guest == Guest::Hvm =>
            {
                Err(Cause::NotForGuest { guest })
            }
            LibxcKind::StaticDataEnd | LibxcKind::CpuidPolicy | LibxcKind::MsrPolicy
                if version < 3 =>
            {
                Err(Cause::NotInVersion { version })
            }
            _ => Ok(()),
        }
    }

    /// Checks what must be before a record, and what must not.
    fn admit_place(&self, kind: LibxcKind) -> Result<(), Cause> {
        match kind {
            LibxcKind::PvInfo | LibxcKind::CpuidPolicy | LibxcKind::MsrPolicy => {
                self.before(LibxcKind::StaticDataEnd)?;
                self.before(LibxcKind::P2mFrames)
            }
            LibxcKind::StaticDataEnd => self.after_pv(LibxcKind::PvInfo),
            LibxcKind::TscInfo | LibxcKind::P2mFrames => self.after_static_data(),
            LibxcKind::PageData => {
                self.after_static_data()?;
                self.after_pv(LibxcKind::P2mFrames)?;
                self.before_state()
            }
            LibxcKind::Verify => {
                self.after(LibxcKind::PageData)?;
                self.before_state()
            }
            LibxcKind::End => self.admit_end(),
            _ => self.after(LibxcKind::PageData),
        }
    }

    fn after(&self, needs: LibxcKind) -> Result<(), Cause> {
        match self.seen.contains(&needs) {
            true => Ok(()),
            false => Err(Cause::TooEarly {
                needs: needs.name(),
            }),
        }
    }

    fn after_pv(&self, needs: LibxcKind) -> Result<(), Cause> {
        match self.header.guest {
            Guest::Pv => self.after(needs),
            Guest::Hvm => Ok(()),
        }
    }

    fn after_static_data(&self) -> Result<(), Cause> {
        self.after_pv(LibxcKind::PvInfo)?;
        match self.header.version {
            2 => Ok(()),
            _ => self.after(LibxcKind::StaticDataEnd),
        }
    }

    fn before(&self, later: LibxcKind) -> Result<(), Cause> {
        match self.seen.contains(&later) {
            false => Ok(()),
            true => Err(Cause::TooLate {
                before: later.name(),
            }),
        }
    }

    fn before_state(&self) -> Result<(), Cause> {
        STATE.iter().try_for_each(|kind| self.before(*kind))
    }

    fn admit_end(&self) -> Result<(), Cause> {
        let needed: &[LibxcKind] = match self.header.guest {
            Guest::Pv => &[
                LibxcKind::PvInfo,
                LibxcKind::P2mFrames,
                LibxcKind::PageData,
                LibxcKind::SharedInfo,
            ],
            Guest::Hvm => &[
                LibxcKind::PageData,
                LibxcKind::HvmContext,
                LibxcKind::HvmParams,
            ],
        };
        let missing = needed.iter().find(|kind| !self.seen.contains(kind));
        let is_without_vcpu = self.header.guest == Guest::Pv && !self.has_vcpu_0;
        match missing {
            Some(kind) => Err(Cause::Missing { what: kind.name() }),
            None if is_without_vcpu => Err(Cause::Missing {
                what: "X86_PV_VCPU_BASIC of vCPU 0",
            }),
            None => Ok(()),
        }
    }

    /// Goes past a record.
    fn pass(&mut self, record: &Record) -> Result<(), Cause> {
        self.admit(record.kind())?;
        match record {
            Record::PvInfo(info) => self.pv = Some(*info),
            Record::P2mFrames(frames) => self.pass_p2m_frames(frames)?,
            Record::Vcpu(vcpu) => self.pass_vcpu(vcpu)?,
            _ => {}
        }
        self.seen.insert(record.kind());
        Ok(())
    }

    fn pass_p2m_frames(&mut self, p2m: &P2mFrames) -> Result<(), Cause> {
        let Some(pv) = self.pv else {
            return Err(Cause::TooEarly {
                needs: LibxcKind::PvInfo.name(),
            });
        };
        let pages = u64::from(p2m.last_pfn) / pv.entries_per_page() + 1;
        if p2m.frames.len() as u64 != pages {
            let head_bytes = 8;
            return Err(Cause::Length {
                length_bytes: head_bytes + p2m.frames.len() as u64 * 8,
                min_bytes: head_bytes + pages * 8,
                max_bytes: head_bytes + pages * 8,
            });
        }
        let last_pfn = u64::from(p2m.last_pfn);
        self.below(last_pfn, self.limits.pfn_end)?;
        self.pfn_end = last_pfn + 1;
        let mut frames = p2m.frames.iter();
        frames.try_for_each(|pfn| self.below(*pfn, self.pfn_end))
    }

    fn below(&self, pfn: u64, pfn_end: u64) -> Result<(), Cause> {
        match pfn < pfn_end {
            true => Ok(()),
            false => Err(Cause::PageRange { pfn, pfn_end }),
        }
    }

    fn pass_vcpu(&mut self, vcpu: &VcpuState) -> Result<(), Cause> {
        if vcpu.vcpu >= self.limits.vcpu_end {
            return Err(Cause::Value {
                field: "vcpu_id",
                value: u64::from(vcpu.vcpu),
            });
        }
        self.check_width(vcpu)?;
        if !self.vcpu_records.insert((vcpu.part, vcpu.vcpu)) {
            return Err(Cause::Repeated);
        }
        let is_vcpu_0 = (vcpu.part, vcpu.vcpu) == (VcpuPart::Basic, 0);
        self.has_vcpu_0 |= is_vcpu_0 && !vcpu.state.is_empty();
        Ok(())
    }

    /// Checks that the registers are those of a guest of this width.
    fn check_width(&self, vcpu: &VcpuState) -> Result<(), Cause> {
        let is_basic = vcpu.part == VcpuPart::Basic && !vcpu.state.is_empty();
        let is_large = vcpu.state.len() > VcpuPart::BASIC_32_BYTES;
        match self.pv {
            Some(pv) if is_basic && pv.is_64_bit != is_large => Err(Cause::Value {
                field: "length",
                value: vcpu.state.len() as u64,
            }),
            _ => Ok(()),
        }
    }

    /// Goes past the pages of a record.
    pub(crate) fn pass_pages(&mut self, entries: &[PageEntry]) -> Result<(), Cause> {
        self.admit(LibxcKind::PageData)?;
        self.check_page_order(entries)?;
        entries
            .iter()
            .try_for_each(|entry| self.admit_page(*entry))?;
        self.seen.insert(LibxcKind::PageData);
        Ok(())
    }

    /// Checks that a record has each page once. libxc writes them in the order of their numbers; a converted image of Xen 4.5 or
    /// earlier may have another order.
    fn check_page_order(&self, entries: &[PageEntry]) -> Result<(), Cause> {
        if self.header.xen.0 == 0 {
            return unique("pfn", entries, |entry| entry.pfn);
        }
        let mut pairs = entries.iter().zip(entries.iter().skip(1));
        match pairs.find(|(one, next)| one.pfn >= next.pfn) {
            Some((_, next)) => Err(Cause::PageOrder { pfn: next.pfn }),
            None => Ok(()),
        }
    }

    /// First page frame number that a page of this kind cannot have. A hole of an HVM or PVH guest needs no memory, and may be
    /// anywhere. libxc writes an entry for each number up to the guest's largest one.
    fn pfn_end_of(&self, kind: PageKind) -> u64 {
        match (self.header.guest, kind) {
            (Guest::Hvm, PageKind::Absent | PageKind::Broken) => PFN_END,
            _ => self.pfn_end,
        }
    }

    fn admit_page(&self, entry: PageEntry) -> Result<(), Cause> {
        self.below(entry.pfn, self.pfn_end_of(entry.kind))?;
        let levels = self.pv.map_or(0, PvInfo::levels);
        match entry.kind {
            PageKind::Table { level, .. } if !(1..=levels).contains(&level) => {
                Err(Cause::PageType {
                    pfn: entry.pfn,
                    code: entry.kind.code(),
                })
            }
            _ => Ok(()),
        }
    }
}
