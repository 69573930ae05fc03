//! The xenstore nodes of a domain after a soft reset: those that a create writes, with the values that a reset does not change.

use xen_port::{DomId, DomainInfo};
use xenstore::{Batch, Tree};

use crate::control::power::{self, PowerRequest};
use crate::device;
use crate::device::console::Ring;
use crate::operation::xenstore_nodes::{self, DomainTree};
use crate::vm::paths::{node, uuid_text};
use crate::{EngineError, Host};

/// The request to the guest that it has not taken.
pub(super) fn waiting_request(
    store: &mut impl Tree,
    domid: DomId,
) -> Result<Option<PowerRequest>, EngineError> {
    let word = store.read_opt(&power::shutdown_path(domid)?)?;
    Ok(word.and_then(|word| power::request_of_word(&word)))
}

/// Removes the domain's nodes and writes them again, in one transaction: no process sees the domain without its name, and
/// xenconsoled, which watches the console's nodes, finds the new port and the old tty.
pub(super) fn write(
    host: &mut Host,
    info: &DomainInfo,
    console: Ring,
    kept: Option<PowerRequest>,
) -> Result<(), EngineError> {
    let record = node(&xenstore_nodes::libxl_path(info.domid))?;
    host.store.try_transaction(|transaction| {
        // Another toolstack may have destroyed the domain. What is written afterwards would stay for ever.
        if !transaction.exists(&record)? {
            return Err(EngineError::NoSuchDomain(info.domid.to_string()));
        }
        let live = Live::read(transaction, info)?;
        // One that came since the release counts more than the one before.
        let asked_for = waiting_request(transaction, info.domid)?.or(kept);
        let mut batch = live.nodes(info, console)?;
        if let Some(request) = asked_for {
            let node = power::shutdown_path(info.domid)?;
            batch.write(&node, request.word().as_bytes());
        }
        transaction.run(&batch)?;
        Ok(())
    })
}

/// The values in xenstore that a soft reset does not change. All of them are the toolstack's.
struct Live {
    name: Option<String>,
    target_kib: Option<u64>,
    max_kib: Option<u64>,
    /// For each vCPU: whether it is online.
    vcpus_online: Vec<bool>,
    start_time: Option<String>,
    /// Nodes of devices, below the domain's home, with their values.
    kept: Vec<(&'static str, String)>,
}

impl Live {
    fn read(store: &mut impl Tree, info: &DomainInfo) -> Result<Live, EngineError> {
        let home = xenstore_nodes::domain_path(info.domid);
        let vm = xenstore_nodes::vm_path(&uuid_text(&info.handle));
        let mut batch = Batch::new();
        let mut read = |text: String| Ok::<_, EngineError>(batch.read_opt(&node(&text)?));
        let name = read(format!("{home}/name"))?;
        let target = read(format!("{home}/memory/target"))?;
        let max = read(format!("{home}/memory/static-max"))?;
        let start_time = read(format!("{vm}/start_time"))?;
        let kept: Vec<(&str, usize)> = device::kept_nodes()
            .map(|kept| Ok((kept, read(format!("{home}/{kept}"))?)))
            .collect::<Result<_, EngineError>>()?;
        let vcpus: Vec<usize> = (0..=info.max_vcpu_id.unwrap_or(0))
            .map(|vcpu| read(format!("{home}/cpu/{vcpu}/availability")))
            .collect::<Result<_, _>>()?;
        let replies = store.run(&batch)?;
        let text = |index| {
            replies
                .value(index)
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let number = |index| text(index)?.parse().ok();
        Ok(Live {
            name: text(name),
            target_kib: number(target),
            max_kib: number(max),
            vcpus_online: vcpus
                .into_iter()
                .map(|vcpu| text(vcpu).as_deref() == Some("online"))
                .collect(),
            start_time: text(start_time),
            kept: kept
                .into_iter()
                .filter_map(|(kept, index)| Some((kept, text(index)?)))
                .collect(),
        })
    }

    /// Removes the domain's nodes, and writes those that a create would have written.
    fn nodes(&self, info: &DomainInfo, console: Ring) -> Result<Batch, EngineError> {
        const KIB_PER_PAGE: u64 = 4;
        let (home, uuid) = (
            xenstore_nodes::domain_path(info.domid),
            uuid_text(&info.handle),
        );
        let mut batch = Batch::new();
        // The release took the guest's rights from what it could read, so all of it is made anew.
        batch.rm(&node(&home)?);
        batch.rm(&node(&xenstore_nodes::vm_path(&uuid))?);
        for change in xenstore_nodes::changes(&DomainTree {
            domid: info.domid,
            name: self.name.clone().unwrap_or_else(|| uuid.clone()),
            uuid,
            kind: info.kind(),
            target_kib: self.target_kib.unwrap_or(info.tot_pages * KIB_PER_PAGE),
            max_kib: self.max_kib.unwrap_or(info.max_pages * KIB_PER_PAGE),
            vcpus_online: self.vcpus_online.clone(),
            console,
            start_time: self.start_time.clone().unwrap_or_default(),
            hvm: None,
        }) {
            change.add_to(&mut batch)?;
        }
        for (kept, value) in &self.kept {
            batch.write(&node(&format!("{home}/{kept}"))?, value.as_bytes());
        }
        Ok(batch)
    }
}
