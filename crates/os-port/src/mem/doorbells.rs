//! Doorbells in memory.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Life;
use crate::doorbell::{Call, Doorbell, Doorbells, Heard};
use crate::wait::{EventSource, Readiness};

/// The doorbells of a simulated host. Clones share the same doorbells.
#[derive(Clone, Debug, Default)]
pub struct MemDoorbells {
    bells: Arc<Mutex<BTreeMap<PathBuf, Bell>>>,
}

/// A doorbell and its connections. They outlive the doorbell's name.
#[derive(Clone, Debug)]
struct Bell {
    owner: Life,
    /// Whether its owner has not dropped it.
    is_open: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<Line>>>,
}

impl Bell {
    fn is_there(&self) -> bool {
        self.is_open.load(Ordering::Relaxed) && self.owner.lives()
    }
}

/// A connection of one caller.
#[derive(Debug)]
struct Line {
    caller: Life,
    /// Whether the owner has a ring to take.
    has_ring: bool,
    /// Whether the caller has a ring to take.
    has_answer: bool,
    has_caller: bool,
    has_owner: bool,
}

impl Line {
    fn is_heard(&self) -> bool {
        self.has_ring || !self.caller_is_there()
    }

    fn caller_is_there(&self) -> bool {
        self.has_caller && self.caller.lives()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemDoorbells {
    /// The doorbells with the rights of one process.
    pub fn of(&self, life: &Life) -> ProcessDoorbells {
        ProcessDoorbells {
            all: self.clone(),
            life: life.clone(),
        }
    }

    /// Paths of all doorbells whose owners live.
    pub fn living(&self) -> Vec<PathBuf> {
        let bells = locked(&self.bells);
        let living = bells.iter().filter(|(_, bell)| bell.is_there());
        living.map(|(path, _)| path.clone()).collect()
    }
}

/// The doorbells as one process sees them.
#[derive(Clone, Debug)]
pub struct ProcessDoorbells {
    all: MemDoorbells,
    life: Life,
}

impl Doorbells for ProcessDoorbells {
    fn install(&self, path: &Path) -> io::Result<Box<dyn Doorbell>> {
        self.life.refuse_the_dead()?;
        let bell = Bell {
            owner: self.life.clone(),
            is_open: Arc::new(AtomicBool::new(true)),
            lines: Arc::default(),
        };
        locked(&self.all.bells).insert(path.to_owned(), bell.clone());
        Ok(Box::new(MemDoorbell {
            path: path.to_owned(),
            all: self.all.clone(),
            bell,
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.life.refuse_the_dead()?;
        locked(&self.all.bells).remove(path);
        Ok(())
    }

    fn call(&self, path: &Path) -> io::Result<Rc<dyn Call>> {
        self.life.refuse_the_dead()?;
        let bells = locked(&self.all.bells);
        let bell = bells.get(path).ok_or(ErrorKind::NotFound)?.clone();
        if !bell.is_there() {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let mut lines = locked(&bell.lines);
        lines.push(Line {
            caller: self.life.clone(),
            has_ring: true,
            has_answer: false,
            has_caller: true,
            has_owner: true,
        });
        let number = lines.len() - 1;
        drop(lines);
        Ok(Rc::new(MemCall {
            bell,
            number,
            life: self.life.clone(),
        }))
    }
}

/// A doorbell of one process.
#[derive(Debug)]
struct MemDoorbell {
    path: PathBuf,
    all: MemDoorbells,
    bell: Bell,
}

impl EventSource for MemDoorbell {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        let lines = Arc::clone(&self.bell.lines);
        let has_come = move || {
            let lines = locked(&lines);
            lines.iter().any(|line| line.has_owner && line.is_heard())
        };
        vec![Readiness::Simulated(Box::new(has_come))]
    }
}

impl Doorbell for MemDoorbell {
    fn take(&mut self) -> io::Result<bool> {
        self.bell.owner.refuse_the_dead()?;
        let mut has_rung = false;
        for line in locked(&self.bell.lines).iter_mut() {
            has_rung |= line.has_owner && std::mem::take(&mut line.has_ring);
            line.has_owner &= line.caller_is_there();
        }
        Ok(has_rung)
    }

    fn ring_back(&mut self) -> io::Result<()> {
        self.bell.owner.refuse_the_dead()?;
        let mut lines = locked(&self.bell.lines);
        let there = lines.iter_mut().filter(|line| line.has_owner);
        there.for_each(|line| line.has_answer = true);
        Ok(())
    }

    fn uninstall(&self) -> io::Result<()> {
        self.bell.owner.refuse_the_dead()?;
        let mut bells = locked(&self.all.bells);
        let is_own = |there: &Bell| Arc::ptr_eq(&there.lines, &self.bell.lines);
        if bells.get(&self.path).is_some_and(is_own) {
            bells.remove(&self.path);
        }
        Ok(())
    }
}

impl Drop for MemDoorbell {
    fn drop(&mut self) {
        self.bell.is_open.store(false, Ordering::Relaxed);
    }
}

/// A connection of one process.
#[derive(Debug)]
struct MemCall {
    bell: Bell,
    number: usize,
    life: Life,
}

impl MemCall {
    fn with<T>(&self, change: impl FnOnce(&mut Line, bool) -> T) -> io::Result<T> {
        self.life.refuse_the_dead()?;
        let owner_lives = self.bell.is_there();
        let mut lines = locked(&self.bell.lines);
        let line = lines.get_mut(self.number).ok_or(ErrorKind::NotFound)?;
        Ok(change(line, owner_lives))
    }
}

impl EventSource for MemCall {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        let (bell, number) = (self.bell.clone(), self.number);
        let has_come = move || {
            let lines = locked(&bell.lines);
            let line = lines.get(number);
            line.is_none_or(|line| line.has_answer || !line.has_owner || !bell.is_there())
        };
        vec![Readiness::Simulated(Box::new(has_come))]
    }
}

impl Call for MemCall {
    fn ring(&self) -> io::Result<()> {
        self.with(|line, owner_lives| match line.has_owner && owner_lives {
            true => {
                line.has_ring = true;
                Ok(())
            }
            false => Err(ErrorKind::BrokenPipe.into()),
        })?
    }

    fn take(&self) -> io::Result<Heard> {
        self.with(|line, owner_lives| {
            match (
                std::mem::take(&mut line.has_answer),
                line.has_owner && owner_lives,
            ) {
                (true, _) => Heard::Ring,
                (false, true) => Heard::Nothing,
                (false, false) => Heard::End,
            }
        })
    }
}

impl Drop for MemCall {
    fn drop(&mut self) {
        if let Some(line) = locked(&self.bell.lines).get_mut(self.number) {
            line.has_caller = false;
        }
    }
}
