//! Errors of the engine as programs get them: [`xyl_api::Error`].

use xen_port::DomId;

use super::{EngineError, RequestError};

impl EngineError {
    /// The error with its code, step, domain, causes and remedy, as it goes to another process.
    pub fn to_api(&self) -> xyl_api::Error {
        if let EngineError::ByMonitor(error) = self {
            return xyl_api::Error::clone(error);
        }
        xyl_api::Error {
            code: self.code(),
            message: self.to_string(),
            step: self.step().map(str::to_owned),
            domain: self.domain().map(|domid| domid.0),
            causes: self.causes(),
            remedy: self.remedy(),
        }
    }

    /// The domain that it is about.
    fn domain(&self) -> Option<DomId> {
        match self.cause() {
            EngineError::Control(error) => error.domain(),
            EngineError::NameTaken { domid, .. }
            | EngineError::UuidTaken { domid, .. }
            | EngineError::ForeignDevices { domid, .. }
            | EngineError::Restarted { domid, .. }
            | EngineError::HasRun(domid) => Some(*domid),
            EngineError::ControlDomain(_) => Some(DomId::ZERO),
            EngineError::NoSuchDomain(meant) => meant.parse().ok().map(DomId),
            _ => None,
        }
    }

    /// Texts of its causes, the nearest first; after a failed step also those of undos that failed.
    pub fn causes(&self) -> Vec<String> {
        match self {
            EngineError::ByMonitor(error) => return error.causes.clone(),
            EngineError::Step(failure) => {
                let left = failure.left_behind.iter();
                let left = left.map(|(step, error)| format!("undoing `{step}`: {error}"));
                return std::iter::once(failure.cause.to_string())
                    .chain(left)
                    .collect();
            }
            _ => {}
        }
        let mut causes = Vec::new();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        causes
    }

    /// An action that helps: the text after the last colon, for the errors that end in a remedy.
    pub fn remedy(&self) -> Option<String> {
        let cause = self.cause();
        if let EngineError::ByMonitor(error) = cause {
            return error.remedy.clone();
        }
        if !cause.has_remedy() {
            return None;
        }
        let text = cause.to_string();
        let (_, remedy) = text.rsplit_once(": ")?;
        Some(remedy.to_owned())
    }

    fn has_remedy(&self) -> bool {
        match self {
            EngineError::Control(error) => RequestError::has_remedy(error),
            EngineError::Pci(error) => error.has_remedy(),
            EngineError::Pool(error) => error.has_remedy(),
            EngineError::NoFirmware { .. }
            | EngineError::Parameter(_)
            | EngineError::NoSuchCpus { .. }
            | EngineError::NameTaken { .. }
            | EngineError::UuidTaken { .. }
            | EngineError::NoSuchDomain(_)
            | EngineError::NoSuchPool(_)
            | EngineError::NoShares(_)
            | EngineError::NotEnoughMemory { .. }
            | EngineError::NoHardwareVirtualisation(_)
            | EngineError::HostLacks(_)
            | EngineError::NoPv
            | EngineError::NoPv32
            | EngineError::NoFreshDomid
            | EngineError::ForeignDevices { .. }
            | EngineError::HasRun(_) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use xen_port::ShutdownReason;
    use xl_cfg::types::{NameRule, VmName};
    use xyl_api::ErrorCode;

    use super::*;
    use crate::Lacking;

    const DOMID: DomId = DomId(7);

    #[test]
    fn a_remedy_is_a_part_of_the_text() {
        let bad_name = VmName::parse("a/b", NameRule::Strict).unwrap_err();
        let request = "poweroff";
        let (wanted_kib, max_kib) = (9, 8);
        let control: [RequestError; 8] = [
            bad_name.into(),
            RequestError::BadSysrq('\n'),
            RequestError::NoPvDrivers {
                domid: DOMID,
                request,
            },
            RequestError::Paused { domid: DOMID },
            RequestError::HasShutDown {
                domid: DOMID,
                reason: ShutdownReason::Poweroff,
            },
            RequestError::Restarting { domid: DOMID },
            RequestError::AboveMaximum {
                domid: DOMID,
                wanted_kib,
                max_kib,
            },
            RequestError::VcpusOutOfRange {
                domid: DOMID,
                wanted: 9,
                most: 8,
            },
        ];
        let others = [
            EngineError::NoSuchDomain("a: b".to_owned()),
            EngineError::NotEnoughMemory {
                wanted_mib: 2,
                free_mib: 1,
            },
            EngineError::HostLacks(Lacking::Hap),
            EngineError::HasRun(DOMID),
            EngineError::NoFreshDomid,
        ];
        for error in control.into_iter().map(EngineError::from).chain(others) {
            let text = error.to_string();
            let remedy = error.remedy().unwrap_or_else(|| panic!("{text}"));
            assert!(!remedy.is_empty() && text.ends_with(&remedy), "{text}");
            assert!(!remedy.contains("domain 7 has"), "{text}");
        }
    }

    #[test]
    fn what_a_monitor_has_failed_at_goes_on_as_it_came() {
        let domid = DOMID;
        let error = EngineError::from(RequestError::Restarting { domid }).to_api();
        assert_eq!(error.code, ErrorCode::Restarting);
        assert_eq!(error.domain, Some(7));
        assert!(error.remedy.is_some());
        let again = EngineError::ByMonitor(Box::new(error.clone()));
        assert_eq!(again.to_api(), error);
        assert_eq!(again.remedy(), error.remedy);
        assert_eq!(again.code(), error.code);
    }
}
