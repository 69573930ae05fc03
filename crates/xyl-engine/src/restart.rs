//! Giving a VM its next domain when the one it has has ended.

use uuid::Uuid;
use xen_port::DomId;
use xyl_saga::Facts;

use crate::operation::{Draft, Kind};
use crate::{Cancel, EngineError, Host, Owner, preserve};

/// Replaces an ended domain of a VM by a new one, made from the VM's record. The new one's number;
/// `None` where another process has ended or replaced that domain meanwhile.
pub fn restart(
    host: &mut Host,
    uuid: Uuid,
    old: DomId,
    name: &str,
    keeps_old: bool,
) -> Result<Option<DomId>, EngineError> {
    let owner = Owner::take(host, uuid)?;
    let info = host.hv.domain_info(old)?;
    let is_there = info.is_some_and(|info| &info.handle == uuid.as_bytes() && !info.flags.dying);
    if !is_there {
        return Ok(None);
    }
    let mut args = Facts::new();
    args.insert("old".to_owned(), old.0.into());
    let aside = keeps_old.then(|| preserve::aside(host, name));
    if let Some(aside) = &aside {
        let uuid = aside.uuid.hyphenated().to_string();
        args.insert("aside_uuid".to_owned(), uuid.into());
        args.insert("aside_name".to_owned(), aside.name.clone().into());
    }
    let mut draft = Draft::new(host, uuid);
    draft.old = Some(old);
    draft.aside = aside;
    draft.keeps_record = true;
    let kind = match keeps_old {
        true => Kind::RenameRestart,
        false => Kind::Restart,
    };
    owner.carry_out(kind, name, args, &mut draft, &Cancel::new(), &mut |_| ())?;
    draft.domid().map(Some)
}
