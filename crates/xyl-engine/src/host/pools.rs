//! CPU pools and their names. Xen has the pools, xenstore their names. A name need not contain the pool's number.

use xen_port::{CpuMap, Hypervisor, SchedulerId};
use xenstore::{Batch, Path, Tree};

use crate::EngineError;
use crate::host::NO_NAME;

/// A CPU pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Number of the pool.
    pub id: u32,
    /// Name of the pool, if xenstore has one.
    pub name: Option<String>,
    /// Scheduler of the pool.
    pub scheduler: SchedulerId,
    /// Number of domains in the pool.
    pub nr_domains: u32,
    /// CPUs of the pool.
    pub cpus: CpuMap,
}

impl Pool {
    /// Name of the pool in messages.
    pub fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.id.to_string())
    }
}

/// The CPU pools of the host.
#[derive(Clone, Debug)]
pub struct Pools(Vec<Pool>);

impl Pools {
    /// Reads the pools from Xen, and their names from xenstore (`/local/pool/ID/name`).
    pub fn read(hv: &dyn Hypervisor, store: &mut impl Tree) -> Result<Pools, EngineError> {
        let pools = hv.cpu_pools()?;
        let mut batch = Batch::new();
        for pool in &pools {
            let path = format!("/local/pool/{}/name", pool.id);
            batch.read_opt(&Path::new(&path).map_err(xenstore::Error::from)?);
        }
        let replies = store.run(&batch)?;
        let name = |at| {
            let bytes = replies.value(at)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let pools = pools.into_iter().enumerate().map(|(at, pool)| Pool {
            id: pool.id,
            name: name(at),
            scheduler: pool.scheduler,
            nr_domains: pool.nr_domains,
            cpus: pool.cpus,
        });
        Ok(Pools(pools.collect()))
    }

    /// Name of a pool.
    pub fn name(&self, id: u32) -> String {
        let found = self.0.iter().find(|pool| pool.id == id);
        found
            .and_then(|pool| pool.name.clone())
            .unwrap_or_else(|| NO_NAME.to_owned())
    }

    /// Finds a pool by number or name. Digits alone are a number.
    pub fn find(&self, asked: &str) -> Option<&Pool> {
        let number: Option<u32> = asked.parse().ok();
        self.0.iter().find(|pool| match number {
            Some(number) => pool.id == number,
            None => pool.name.as_deref() == Some(asked),
        })
    }

    /// All pools, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.0.iter()
    }

    /// Names of all pools.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|pool| self.name(pool.id)).collect()
    }

    /// Names of all pools, separated by commas.
    pub fn listed(&self) -> String {
        self.names().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use xen_sim::model::Model;
    use xenstore::mem::MemStore;

    use super::*;

    #[test]
    fn names_are_those_of_xenstore_whatever_the_numbers() {
        let hv = Model::new(64);
        hv.add_pool(1, SchedulerId::Credit);
        hv.add_pool(2, SchedulerId::Null);
        let mut store = MemStore::new().client(0).unwrap();
        for (id, name) in [(0, "Pool-0"), (1, "fast"), (2, "Pool-1")] {
            let path = Path::new(&format!("/local/pool/{id}/name")).unwrap();
            store.write(&path, name.as_bytes()).unwrap();
        }
        let pools = Pools::read(&hv, &mut store).unwrap();
        let id = |asked| pools.find(asked).map(|pool| pool.id);
        assert_eq!(
            (id("fast"), id("Pool-1"), id("1")),
            (Some(1), Some(2), Some(1))
        );
        assert_eq!((id("Pool-2"), id("7")), (None, None));
        assert_eq!(pools.listed(), "Pool-0, fast, Pool-1");
        assert_eq!(pools.name(7), NO_NAME);
    }
}
