//! The JSON of types of other crates.

/// A path: as text, or as bytes where it is not UTF-8.
pub(crate) mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => text.serialize(to),
            None => path.as_os_str().as_bytes().serialize(to),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Text(text) => PathBuf::from(text),
            Written::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

/// Numbers of vCPUs, as an array of numbers.
pub(crate) mod vcpus {
    use serde::{Deserialize, Deserializer, Serializer};
    use xen_port::VcpuId;

    pub(crate) fn serialize<S: Serializer>(vcpus: &[VcpuId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(vcpus.iter().map(|vcpu| vcpu.0))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<VcpuId>, D::Error> {
        let numbers = Vec::<u32>::deserialize(from)?;
        Ok(numbers.into_iter().map(VcpuId).collect())
    }
}

/// One number of a vCPU.
pub(crate) mod vcpu {
    use serde::{Deserialize, Deserializer, Serializer};
    use xen_port::VcpuId;

    pub(crate) fn serialize<S: Serializer>(vcpu: &VcpuId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(vcpu.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<VcpuId, D::Error> {
        u32::deserialize(from).map(VcpuId)
    }
}

/// A set of CPUs: an array of their numbers, or nothing.
pub(crate) mod cpus {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use xen_port::CpuMap;

    use crate::request::CPU_MAX;

    pub(crate) fn serialize<S: Serializer>(
        cpus: &Option<CpuMap>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match cpus {
            Some(cpus) => to.collect_seq(cpus.iter()),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<CpuMap>, D::Error> {
        let Some(numbers) = Option::<Vec<u32>>::deserialize(from)? else {
            return Ok(None);
        };
        match numbers.iter().find(|cpu| **cpu > CPU_MAX) {
            Some(cpu) => Err(D::Error::custom(format!(
                "{cpu} is above the largest number of a CPU, {CPU_MAX}"
            ))),
            None => Ok(Some(numbers.into_iter().collect())),
        }
    }
}

/// Stands for [`xen_port::Trigger`].
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(remote = "xen_port::Trigger", rename_all = "snake_case")]
pub(crate) enum Trigger {
    Nmi,
    Reset,
    Init,
    Power,
    Sleep,
}

/// Stands for [`xen_port::SchedulerId`].
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(remote = "xen_port::SchedulerId", rename_all = "snake_case")]
pub(crate) enum Scheduler {
    Credit,
    Credit2,
    Arinc653,
    Rtds,
    Null,
    Unknown(u32),
}
