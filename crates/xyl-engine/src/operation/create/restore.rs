//! The saved guest of a restore, and the step that gives a new domain its memory and CPU state.
//!
//! The file is read twice, each time by a child without rights ([`saved_image`]): first its configuration, about which the VM is
//! planned and the policy is asked, then all of it. The second time the limits are those of the planned VM.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xen_build::{RestoreProgress, RestoreRequest};
use xen_port::GuestKind;
use xen_stream::Event;
use xyl_saga::At;

use super::steps::hvm_params;
use super::{Context, Rings};
use crate::config::admission::{Decision, Outcome};
use crate::config::libxl_json::read::{Unsupported, to_cfg};
use crate::config::plan::{self, Planned};
pub use crate::error::RestoreError;
use crate::host::saved_image::{self, ImageError, ImageReader, ImageStart};
use crate::host::topology;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// A guest in a file of `xl save` or `xyl save`.
#[derive(Debug)]
pub struct SavedGuest {
    path: PathBuf,
    file: File,
    start: ImageStart,
}

impl SavedGuest {
    /// Reads the first parts of an open file. `path` is for messages.
    ///
    /// # Errors
    /// The file is no image, or is damaged there.
    pub fn read(path: &Path, file: File) -> Result<SavedGuest, EngineError> {
        let start = saved_image::start_of(&file);
        let start = start.map_err(|error| failed(path, error))?;
        let start = start.ok_or_else(|| RestoreError::NoConfig {
            path: path.to_owned(),
            why: "it has no JSON".to_owned(),
        })?;
        Ok(SavedGuest {
            path: path.to_owned(),
            file,
            start,
        })
    }

    /// The configuration in the file, as JSON of libxl.
    ///
    /// # Errors
    /// [`RestoreError::NoConfig`].
    pub fn config(&self) -> Result<Value, EngineError> {
        let parsed = serde_json::from_slice(&self.start.config);
        let parsed = parsed.map_err(|error| RestoreError::NoConfig {
            path: self.path.clone(),
            why: error.to_string(),
        });
        Ok(parsed?)
    }

    /// Plans the VM of the configuration in the file.
    ///
    /// # Errors
    /// Those of the configuration; [`RestoreError::Unsupported`].
    pub fn plan(&self, host: &Host) -> Result<Planned, EngineError> {
        let (text, unsupported) = to_cfg(&self.config()?);
        if !unsupported.is_empty() {
            let what: Vec<String> = unsupported.iter().map(Unsupported::to_string).collect();
            return Err(RestoreError::Unsupported {
                path: self.path.clone(),
                what: what.join(", "),
            }
            .into());
        }
        let name = format!("the configuration in {}", self.path.display());
        plan::plan_record(&name, &text, &mut || topology::of(&*host.hv))
    }

    /// Whether it is a 32-bit PV guest.
    pub(super) fn is_pv32(&self) -> bool {
        self.start.is_pv32
    }

    /// Refuses a configuration that is not of this guest's type.
    pub(super) fn check(&self, spec: &VmSpec) -> Result<(), RestoreError> {
        let path = || self.path.clone();
        if spec.kind == GuestKind::Hvm {
            return Err(RestoreError::Hvm { path: path() });
        }
        match (spec.kind == GuestKind::Pv) == self.start.is_pv {
            true => Ok(()),
            false => Err(RestoreError::OtherType {
                path: path(),
                wanted: spec.kind_text(),
            }),
        }
    }

    /// Refuses a guest that the policy does not allow as it is. It cannot be moved into the shim.
    pub(super) fn check_decision(&self, decision: &Decision) -> Result<(), RestoreError> {
        match decision.outcome {
            Outcome::Allow => Ok(()),
            Outcome::Refuse | Outcome::ConvertToShim => Err(RestoreError::NotAdmitted {
                path: self.path.clone(),
                line: decision.line(),
            }),
        }
    }

    /// The image, for the step that reads it.
    pub(super) fn image(&self) -> Result<Image, EngineError> {
        let file = self.file.try_clone();
        Ok(Image {
            file: file.map_err(|error| failed(&self.path, error.into()))?,
            path: self.path.clone(),
            config: self.start.config.clone(),
        })
    }
}

fn failed(path: &Path, error: ImageError) -> RestoreError {
    let path = path.to_owned();
    match error {
        ImageError::Stream(source) => RestoreError::Image { path, source },
        ImageError::Io(source) => RestoreError::File { path, source },
    }
}

/// The image that a restore reads.
pub(super) struct Image {
    file: File,
    path: PathBuf,
    /// The configuration that the VM was planned from, unless another was given.
    config: Vec<u8>,
}

/// Gives the domain its memory and the state of its vCPUs.
pub(super) fn restore_memory(
    host: &mut Host,
    context: &mut Context<'_>,
    at: &At<'_>,
) -> Result<(), EngineError> {
    let image = context.image.as_ref();
    let image = image.ok_or_else(|| context.has_no_domain())?;
    let prepared = context.prepared()?;
    let ports = (context.store_port, context.console_port);
    let (store, console) = prepared.daemons.channels(ports);
    let params = hvm_params(&prepared.spec);
    let request = RestoreRequest {
        domid: context.domid()?,
        kind: prepared.spec.kind,
        max_kib: prepared.spec.max_kib.max(prepared.spec.target_kib),
        max_vcpus: prepared.spec.max_vcpus,
        store,
        console,
        hvm_params: &params,
    };
    let reader = saved_image::stream_of(&image.file, request.limits());
    let mut reader = reader.map_err(|error| failed(&image.path, error.into()))?;
    read_head(image, &mut reader)?;
    let mut stopped = None;
    let mut report = |_: RestoreProgress| match at.check() {
        Ok(()) => ControlFlow::Continue(()),
        Err(stop) => {
            stopped = Some(stop);
            ControlFlow::Break(())
        }
    };
    let restored = xen_build::restore(&*host.hv, &request, &mut reader, &mut report);
    let restored = match (restored, stopped) {
        (Err(_), Some(stop)) => return Err(stop.into()),
        (Err(source), None) => return Err(state_error(image, source).into()),
        (Ok(restored), _) => restored,
    };
    read_tail(image, &mut reader)?;
    context.rings = Some(Rings {
        store: restored.store_gfn,
        console: restored.console_gfn,
    });
    Ok(())
}

fn state_error(image: &Image, source: xen_build::RestoreError) -> RestoreError {
    let path = image.path.clone();
    match source {
        xen_build::RestoreError::Stream(source) => RestoreError::Image { path, source },
        source => RestoreError::State {
            path,
            source: Box::new(source),
        },
    }
}

/// Reads what comes before the state.
fn read_head(image: &Image, reader: &mut ImageReader) -> Result<(), RestoreError> {
    loop {
        match next(image, reader)? {
            Some(Event::File(header)) if header.config.text() != image.config => {
                return Err(RestoreError::Changed {
                    path: image.path.clone(),
                });
            }
            Some(Event::LibxcContext) | None => return Ok(()),
            Some(_) => {}
        }
    }
}

/// Reads what comes after the state, to the end. The nodes of an emulator are not those of this guest, which has none.
fn read_tail(image: &Image, reader: &mut ImageReader) -> Result<(), RestoreError> {
    loop {
        match next(image, reader)? {
            Some(Event::EmulatorContext(_)) => {
                return Err(RestoreError::Hvm {
                    path: image.path.clone(),
                });
            }
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn next<'r>(image: &Image, reader: &'r mut ImageReader) -> Result<Option<Event<'r>>, RestoreError> {
    let event = reader.next_event();
    event.map_err(|source| RestoreError::Image {
        path: image.path.clone(),
        source,
    })
}
