//! A kernel on the real disk, which is read and never written to, and processes in a world that use it.

#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../../../xen-build/tests/common/mod.rs"]
pub mod common;
pub mod seeds;

use std::path::{Path, PathBuf};

use common::{Kernel, MIB, PAGE, pattern};
use xen_image::elfnote::types;
use xen_port::DomId;
use xen_sim::{Ended, Fate, Moment, Sabotage, World};
use xyl_engine::config::plan::{self, Planned};
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::{Cancel, Dirs, EngineError, Host};

pub struct Bench {
    /// A fault in every process that acts or recovers.
    pub sabotage: Option<Sabotage>,
    /// Lives as long as somebody uses it.
    folder: std::sync::Arc<tempfile::TempDir>,
    kernel: PathBuf,
    kernel_cache: PathBuf,
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        let elf = Kernel::default()
            .part(MIB, pattern(5, 1), PAGE)
            .note(types::PHYS32_ENTRY, &0x10_0010_u32.to_le_bytes())
            .elf();
        std::fs::write(&kernel, elf).unwrap();
        let kernel_cache = folder.path().join("cache");
        Bench {
            sabotage: None,
            folder: std::sync::Arc::new(folder),
            kernel,
            kernel_cache,
        }
    }

    /// The same without a fault in the engine.
    pub fn sound(&self) -> Bench {
        Bench {
            sabotage: None,
            folder: std::sync::Arc::clone(&self.folder),
            kernel: self.kernel.clone(),
            kernel_cache: self.kernel_cache.clone(),
        }
    }

    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    pub fn config(&self, name: &str, uuid: &str) -> String {
        format!(
            "name = \"{name}\"\nuuid = \"{uuid}\"\ntype = \"pvh\"\nmemory = 8\nkernel = \"{}\"\n",
            self.kernel.display()
        )
    }

    pub fn plan(&self, text: &str) -> Result<Planned, EngineError> {
        plan::plan_record("bench", text, &mut || Ok(vec![(0, 0)]))
    }

    pub fn host(&self, world: &World, fate: &Fate) -> Host {
        let handles = world.handles(fate).unwrap();
        let mut dirs = Dirs::below(Path::new("/"));
        dirs.kernel_cache = self.kernel_cache.clone();
        Host {
            hv: handles.hv,
            store: handles.store,
            dirs,
            files: handles.files,
            clock: handles.clock,
            process: handles.process,
            notice: std::rc::Rc::new(|_| ()),
        }
    }

    /// A process that does one thing.
    pub fn process<T>(
        &self,
        world: &World,
        doom: Option<(u64, Moment)>,
        act: impl FnOnce(&mut Host) -> Result<T, EngineError>,
    ) -> (Ended<Result<T, EngineError>>, u64) {
        self.run(world, world.fate(doom), act)
    }

    /// The process of this fate does one thing.
    pub fn run<T>(
        &self,
        world: &World,
        fate: Fate,
        act: impl FnOnce(&mut Host) -> Result<T, EngineError>,
    ) -> (Ended<Result<T, EngineError>>, u64) {
        let fate = fate.with(self.sabotage);
        let ended = fate.run(|| act(&mut self.host(world, &fate)));
        (ended, fate.calls())
    }

    pub fn must<T>(
        &self,
        world: &World,
        act: impl FnOnce(&mut Host) -> Result<T, EngineError>,
    ) -> T {
        match self.process(world, None, act).0 {
            Ended::Well(Ok(value)) => value,
            Ended::Well(Err(error)) => panic!("{error}"),
            Ended::Killed => panic!("killed"),
        }
    }

    pub fn create(&self, host: &mut Host, name: &str, uuid: &str) -> Result<DomId, EngineError> {
        self.create_from(host, &self.config(name, uuid))
    }

    pub fn create_from(&self, host: &mut Host, text: &str) -> Result<DomId, EngineError> {
        create_planned(host, &self.plan(text)?)
    }
}

pub fn create_planned(host: &mut Host, planned: &Planned) -> Result<DomId, EngineError> {
    let mut request = CreateRequest {
        spec: &planned.spec,
        config_text: &planned.config_text(),
        paused: false,
        process_ends: false,
        watch: &mut |_, _| Ok(()),
        before_start: &mut |_, _| Ok(()),
        notice: &mut |_| (),
    };
    create(host, &mut request, &Cancel::new())
}
