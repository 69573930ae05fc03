//! The pages that a domain writes to while it is saved.

use xen_abi::domctl::{self, Domctl};
use xen_abi::xen::HYPERVISOR_DOMCTL;
use xen_port::{DomId, Result};
use zerocopy::FromZeros;

use crate::Xen;
use crate::privcmd::Site;

impl Xen {
    pub(crate) fn note_writes(&self, domid: DomId) -> Result<()> {
        let op = "XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY";
        self.shadow_op(op, domid, domctl::SHADOW_OP_ENABLE_LOGDIRTY)
    }

    pub(crate) fn stop_noting_writes(&self, domid: DomId) -> Result<()> {
        self.shadow_op("XEN_DOMCTL_SHADOW_OP_OFF", domid, domctl::SHADOW_OP_OFF)
    }

    fn shadow_op(&self, name: &'static str, domid: DomId, op: u32) -> Result<()> {
        let request = domctl::ShadowOp {
            op,
            ..domctl::ShadowOp::new_zeroed()
        };
        self.with_release(Site::domain(name, domid), |release| {
            let version = release.interface().domctl;
            // The operation has no bitmap, so the payload has no address.
            let call = Domctl::new(version, domctl::SHADOW_OP, domid.0, &request);
            self.run_plain(&call).map(drop)
        })
    }

    pub(crate) fn take_written(
        &self,
        domid: DomId,
        nr_pages: u64,
        is_last: bool,
    ) -> Result<Vec<u8>> {
        let site = Site::domain("XEN_DOMCTL_SHADOW_OP_CLEAN", domid);
        let words = usize::try_from(nr_pages.div_ceil(64))
            .map_err(|_| site.nonsense(format!("{nr_pages} pages are too many")))?;
        self.with_release(site, |release| {
            let mut call = self.privcmd.call(words.saturating_mul(size_of::<u64>()))?;
            let bitmap = call.reserve::<u64>(words)?;
            let request = domctl::ShadowOp {
                op: domctl::SHADOW_OP_CLEAN,
                mode: if is_last {
                    domctl::SHADOW_LOGDIRTY_FINAL
                } else {
                    0
                },
                dirty_bitmap: bitmap.address(),
                pages: nr_pages,
                ..domctl::ShadowOp::new_zeroed()
            };
            let version = release.interface().domctl;
            let op = call.put(&Domctl::new(version, domctl::SHADOW_OP, domid.0, &request))?;
            // SAFETY: `op` is one domctl, `bitmap` has `pages` bits.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            let answer: domctl::ShadowOp = call.get(&op)?.payload();
            if answer.pages < nr_pages {
                let what = format!("{} of {nr_pages} pages in the answer", answer.pages);
                return Err(site.nonsense(what).into());
            }
            let words = call.get_slice(&bitmap, words)?;
            Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
        })
    }
}
